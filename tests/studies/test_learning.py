"""What modules learn: every probe asked of the part that can answer it, every part's supervision a slice of the whole, accounts that add up."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from loramem.base import load_base
from loramem.core.config import Config
from loramem.core.errors import InputError, RunFailed
from loramem.metrics.text import exact_match
from loramem.sources.catalogue import Source, load_source, source_config
from loramem.studies import learning
from loramem.studies.learning import Learnt, Synthesis, parts_of
from loramem.synthesis.exact import Exact
from loramem.synthesis.generators import SupervisionChoice
from loramem.synthesis.making import synthesize
from loramem.synthesis.units import as_units

SETTINGS = {
    "papers": {"name": "almanac-papers", "documents": 3, "style": "bracket"},
    "chronicles": {"name": "almanac-chronicles", "documents": 2, "sizes": [600]},
    "phonebook": {"name": "phonebook", "sizes": [300]},
}
WAYS = [
    ("corpus", "512"), ("document", "512"), ("chunk", "128"), ("chunk", "100/20"), ("chunk", "structure:128"),
    ("tokens:150", "512"),
]  # fmt: skip


@pytest.fixture(scope="module")
def embedded():
    return load_base("embedded", device="cpu", offline=True)


@pytest.fixture(scope="module")
def sources(embedded) -> dict[str, Source]:
    return {
        key: one for key, config in SETTINGS.items() for one in load_source(config, embedded.prompts.count)
    }


@pytest.fixture(autouse=True)
def no_embedder(monkeypatch):
    """As where none is installed: embedding questions takes longer than all else here."""

    def missing():
        raise InputError("no embedder")

    monkeypatch.setattr(learning, "Embedder", missing)


def choice(recipe: str = "qa:6", **settings) -> SupervisionChoice:
    return SupervisionChoice(recipe=recipe, **settings)


def learn(base, source: Source, given: SupervisionChoice, how: str = "corpus", **options) -> list[Learnt]:
    return Synthesis(base, **options).learn("key", None, source, given, how)


# -- who is asked what ---------------------------------------------------------------------------------
@pytest.mark.parametrize("key", SETTINGS)
@pytest.mark.parametrize(("how", "pieces"), WAYS)
def test_every_probe_is_asked_once_of_the_part_that_can_answer_it(sources, embedded, key, how, pieces):
    source = sources[key]
    parts = parts_of(source, how, pieces, embedded)
    asked = [probe for _, own in parts for probe in own.probes]
    assert Counter(probe.id for probe in asked) == Counter(probe.id for probe in source.probes)
    assert len({part.id for part, _ in parts}) == len(parts) and (len(parts) > 1) == (
        how not in ("corpus", "document") or len(source.documents) > 1 and how == "document"
    )
    whole = {record.id: record.text for record in source.records}
    pieces_of: dict[str, list[str]] = {}
    for part, _ in parts:
        for record in (record for document in part.documents for record in document.records):
            pieces_of.setdefault(record.id, []).append(record.text)
    assert pieces_of.keys() == whole.keys(), "nothing is left out"
    for part, own in parts:
        assert own.documents == part.documents and own.settings == source.settings
        held = {record.id: record.text for document in own.documents for record in document.records}
        for probe in own.probes:
            assert probe.case in held and probe.document in {document.id for document in own.documents}
            if held[probe.case] == whole[probe.case]:
                continue
            assert whole[probe.case] not in pieces_of[probe.case], "another part holds the whole record"
            said = [any(a in text for a in probe.answers) for text in pieces_of[probe.case]]
            assert any(a in held[probe.case] for a in probe.answers) or not any(said), probe.id


def test_a_probe_of_a_record_that_is_cut_is_asked_where_its_answer_stands(sources, embedded):
    """A paragraph cut in two is one case; asked of the first piece alone, half of what is told could not be answered."""
    source = sources["chronicles"]
    parts = parts_of(source, "chunk", "128", embedded)
    cut = [
        (place, record.id)
        for place, (part, _) in enumerate(parts)
        for document in part.documents
        for record in document.records
    ]
    firsts = {record: place for place, record in reversed(cut)}
    later = [probe for place, (_, own) in enumerate(parts) for probe in own.probes if place > firsts[probe.case]]  # fmt: skip
    assert later, "some answers stand in a later piece"


def test_parts_of_a_corpus_are_the_source_itself(sources, embedded):
    ((part, own),) = parts_of(sources["papers"], "corpus", "not looked at", embedded)
    assert own is sources["papers"] and part.id == "corpus"


def test_questions_that_name_no_passage_go_to_the_first_piece_of_their_document(sources, embedded):
    """As with published questions: a case that is no record of the documents."""
    source = sources["papers"]
    vague = tuple(replace(probe, case="unknown") for probe in source.probes)
    parts = parts_of(replace(source, probes=vague), "chunk", "128", embedded)
    assert {part.id for part, own in parts if own.probes} == {f"{d.id}#0" for d in source.documents}
    assert sum(len(own.probes) for _, own in parts) == len(vague)
    stray = replace(source, probes=(replace(source.probes[0], case="unknown", document="none"),))
    with pytest.raises(InputError, match="document 'none', which no part holds"):
        parts_of(stray, "document", "512", embedded)


# -- what is learnt ------------------------------------------------------------------------------------
@pytest.mark.parametrize(("how", "pieces"), WAYS)
def test_supervision_of_parts_is_that_of_the_whole_in_slices(sources, embedded, how, pieces):
    source, given = sources["papers"], choice("raw+qa:6")
    found = learn(embedded, source, given, how, pieces=pieces)
    parts = parts_of(source, how, pieces, embedded)
    assert [(one.part, one.source.probes_hash) for one in found] == [
        (part.id, own.probes_hash) for part, own in parts
    ]
    units = [one.unit for learnt in found for one in learnt.supervision.made]
    texts = [piece.text for part, _ in parts for piece in part.documents]
    assert len(dict.fromkeys(units)) == len(texts)
    for one in found:
        examples = one.supervision.examples
        assert one.examples == one.supervision.encode(embedded.prompts) and one.choice == given
        assert (one.key, one.partition) == ("key", how)
        raw = [e.answer for e in examples if e.recipe == "raw"]
        assert raw == [record.text for record in one.source.records], "its own words and nobody else's"
        for unit in {made.unit for made in one.supervision.made}:
            pairs = [e for e in examples if e.record == unit]
            assert 0 < len(pairs) <= 6, "a number is per unit"
            number = unit.split("-")[2].split("#")[0]
            assert all(e.prompt.startswith(f"[Report ID: {number}] ") for e in pairs)
        assert {e.document for e in examples} == {document.id for document in one.source.documents}
        assert one.length >= max(len(e.ids) for e in one.examples) and one.tokens == sum(
            len(e.ids) - e.answer_start for e in one.examples
        )


def test_a_document_learns_the_same_alone_and_in_a_corpus(sources, embedded):
    source, given = sources["papers"], choice("raw+qa:6+summary:2")
    (corpus,), alone = (learn(embedded, source, given, how) for how in ("corpus", "document"))
    assert [e for one in alone for e in one.supervision.examples] == list(corpus.supervision.examples)
    exact, asked = Exact(source), {probe.prompt for probe in source.probes}
    for number, one in enumerate(alone):
        units = [unit.with_lead(f"[Report ID: {number}] ") for unit in as_units(one.source.documents)]
        assert one.supervision.examples == synthesize(units, given.recipe, exact, exclude=asked).examples
    assert len({one.supervision.hash for one in alone}) == len(alone) == 3


def test_numbers_count_for_documents_and_with_chunks_for_chunks(sources, embedded):
    source = sources["papers"]
    written = {}
    for how in ("corpus", "document", "chunk"):
        synthesis = Synthesis(embedded, pieces="128")
        found = synthesis.learn("key", None, source, choice("qa:4"), how)
        (account,) = synthesis.accounts
        written[how] = [len(one.supervision.examples) for one in found]
        assert account["asked"] == 4 * account["units"] and account["parts"] == len(found)
    assert written["corpus"] == [12] and written["document"] == [4, 4, 4]
    assert len(written["chunk"]) > 3 and set(written["chunk"]) == {4}


def test_no_example_asks_what_a_probe_asks(sources, embedded):
    source = sources["papers"]
    probes = {probe.prompt for probe in source.probes}
    (one,) = learn(embedded, source, choice("qa:40+relational-qa:10"))
    free = synthesize(source.documents, "qa:40", Exact(replace(source, probes=())))
    assert not probes & {e.prompt for e in one.supervision.examples}
    asked = {f"[Report ID: {e.document.split('-')[2]}] {e.prompt}" for e in free.examples}
    assert probes & asked, "without probes to leave out they are asked"


# -- overlap -------------------------------------------------------------------------------------------
def paper(number: int, introduction: str, *, asked: list[tuple[str, str]], trained: list[tuple[str, str]]):
    pairs = [{"question": q, "answer": a} for q, a in trained]
    row = {
        "id": number, "title": f"Paper {number}", "introduction": introduction,
        "QA": [{"level": 1, "question": q, "answer": a} for q, a in asked],
    }  # fmt: skip
    return row, pairs


@pytest.fixture
def papers(tmp_path) -> Config:
    """Two papers with published pairs; one pair of the second is a question that is asked."""
    made = [
        paper(
            0, "Lamps were lit by hand.\n\nLumo lights itself for nine hours.", asked=[("What lights itself?", "Lumo.")],
            trained=[("How were lamps lit?", "By hand."), ("How long does Lumo burn?", "Nine hours.")],
        ),
        paper(
            1, "Ado counted stones.\n\nMost of them are flat.", asked=[("What are most stones?", "Flat.")],
            trained=[("Who counted stones?", "Ado."), ("In the Paper ID 1, what are most stones?", "Flat.")],
        ),
    ]  # fmt: skip
    folder = tmp_path / "papers"
    folder.mkdir()
    (folder / "paperQA_0-1.json").write_text(json.dumps([row for row, _ in made]))
    for row, pairs in made:
        lines = "".join(json.dumps(pair) + "\n" for pair in pairs)
        (folder / f"paper_{row['id']}_qa.jsonl").write_text(lines)
    return source_config({"name": "paperqa", "path": str(folder)})


def of_papers(config: Config, base, given: SupervisionChoice, how: str = "document", **options):
    (source,) = load_source(config, base.prompts.count)
    synthesis = Synthesis(base, **options)
    return synthesis.learn("papers", config, source, given, how), synthesis


def test_questions_that_are_asked_are_refused_as_supervision(papers, embedded):
    with pytest.raises(InputError) as refused:
        of_papers(papers, embedded, choice("published"))
    said = str(refused.value)
    assert "holds the questions of 1 of 2 probes, and 0 are allowed" in said
    assert "'paper-1-q0'" in said and said.endswith("train on them knowingly with allow_overlap: 1")


def test_published_pairs_go_to_the_module_of_their_paper(papers, embedded):
    found, synthesis = of_papers(papers, embedded, choice("published", allow_overlap=1))
    assert [[(e.prompt, e.answer) for e in one.supervision.examples] for one in found] == [
        [
            ("In the Paper ID 0, How were lamps lit?", "By hand."),
            ("In the Paper ID 0, How long does Lumo burn?", "Nine hours."),
        ],
        [
            ("In the Paper ID 1, Who counted stones?", "Ado."),
            ("In the Paper ID 1, what are most stones?", "Flat."),
        ],
    ]
    assert [[p.prompt for p in one.source.probes] for one in found] == [
        ["In the Paper ID 0, What lights itself?"], ["In the Paper ID 1, What are most stones?"],
    ]  # fmt: skip
    (account,) = synthesis.accounts
    assert (account["overlap"]["exact"]["count"], account["overlap"]["probes"]) == (1, 2)
    assert (account["generator"], account["supervision"], account["examples"]) == ("source", "published", 4)
    (both,), _ = of_papers(papers, embedded, choice("published+raw", allow_overlap=1), "corpus")
    assert [(e.document, e.recipe) for e in both.supervision.examples if e.recipe == "published"] == [
        (f"paper-{number}", "published") for number in (0, 0, 1, 1)
    ]
    own = [e for e in both.supervision.examples if e.document == "paper-1"]
    assert [e.recipe for e in own[:2]] == ["published"] * 2 and {e.recipe for e in own[2:]} == {"raw"}


def test_published_pairs_belong_to_no_piece_of_a_paper(papers, embedded, sources):
    with pytest.raises(InputError, match="pairs belong to whole documents; use partition corpus or document"):
        of_papers(papers, embedded, choice("published", allow_overlap=1), "chunk", pieces="8")
    config = source_config(SETTINGS["papers"])
    with pytest.raises(InputError, match="'almanac-papers' comes without training pairs"):
        Synthesis(embedded).learn("key", config, sources["papers"], choice("published"))


def test_the_papers_own_words_stand_beside_their_id(papers, embedded):
    found, _ = of_papers(papers, embedded, choice("raw"))
    assert [one.supervision.examples[0].answer.split("\n")[0] for one in found] == [
        "This paper 0 discusses:", "This paper 1 discusses:",
    ]  # fmt: skip


# -- accounts ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("recipe", "how"), [("raw+qa:40", "corpus"), ("implications:30", "chunk"), ("qa:12", "document")]
)
def test_accounts_add_up(sources, embedded, recipe, how):
    source = sources["papers"]
    synthesis = Synthesis(embedded, pieces="structure:128")
    found = synthesis.learn("key", None, source, choice(recipe, error_rate=0.2), how)
    (row,) = synthesis.accounts
    examples = [e for one in found for e in one.supervision.examples]
    made = [one for learnt in found for one in learnt.supervision.made]
    assert row["examples"] == row["written"] == len(examples)
    assert row["tokens"] == sum(len(e.ids) - e.answer_start for one in found for e in one.examples)
    assert row["parts"] == len(found) and row["units"] == len({one.unit for one in made})
    n = int(recipe.partition(":")[2])
    assert row["asked"] == n * row["units"]
    counted = Counter(e.record for e in examples if e.recipe != "raw")
    missing = [n - counted[unit] for unit in {one.unit for one in made}]
    assert row["shortfall"] == sum(missing) and all(one >= 0 for one in missing)
    assert (row["shortfall"] > 0) == (recipe == "implications:30"), "a piece has few facts to conclude from"
    for key in ("written", "shortfall", "calls", "seconds"):
        assert sum(d[key] for d in row["documents"].values()) == pytest.approx(row[key])
    assert row["documents"].keys() == {document.id for document in source.documents}
    assert {e.document: 0 for e in examples}.keys() == row["documents"].keys()
    assert (row["supervision"], row["generator"], row["partition"]) == (recipe, "exact:0.2", how)
    assert row["cost"] is None and row["calls"] == row["cached"] == 0 and row["failures"] == {}
    assert 0 < row["covered"] <= 1 and row["choice"] == {"recipe": recipe, "error_rate": 0.2}
    assert row["split"] == "test" and row["source"] == "key"


def test_what_is_covered_is_counted_over_facts_not_over_parts_of_a_recipe(sources, embedded):
    source = sources["papers"]
    facts = sum(map(len, Exact(source).facts.values()))
    shares = {}
    for recipe in ("raw", "qa:6", "summary:1+qa:6", "qa:6+summary:1"):
        synthesis = Synthesis(embedded)
        synthesis.learn("key", None, source, choice(recipe))
        shares[recipe] = synthesis.accounts[0]["covered"]
    assert shares["raw"] is None and shares["qa:6"] == pytest.approx(3 * 6 / facts)
    assert shares["summary:1+qa:6"] == shares["qa:6+summary:1"] >= shares["qa:6"]


def test_a_supervision_is_made_once_and_told_once(sources, embedded):
    synthesis = Synthesis(embedded)
    first = synthesis.learn("key", None, sources["papers"], choice("qa:6"), "document")
    assert synthesis.learn("key", None, sources["papers"], choice("qa:6"), "document") is first
    assert len(synthesis.accounts) == 1
    synthesis.learn("other", None, sources["papers"], choice("qa:6"), "document")
    assert [row["source"] for row in synthesis.accounts] == ["key", "other"]


def test_choices_that_come_to_the_same_supervision_keep_their_names(sources, embedded):
    """A generator's error rate of which nothing shows, or a limit that is not reached: the same module, two choices."""
    synthesis = Synthesis(embedded)
    one, two = (
        synthesis.learn("key", None, sources["papers"], given)[0]
        for given in (choice("qa:6"), choice("qa:6", error_rate=1e-9))
    )
    assert one.supervision.hash == two.supervision.hash and one.choice != two.choice
    assert [one.choice.who, two.choice.who] == ["exact", "exact:1e-09"]


def test_a_part_that_gets_nothing_fails_the_supervision(sources, embedded):
    source = sources["papers"]
    synthesis = Synthesis(embedded, pieces="40")
    with pytest.raises(RunFailed, match=r"relational-qa:5 by exact gave no examples for paper-41-0#0"):
        synthesis.learn("key", None, source, choice("relational-qa:5"), "chunk")
    assert synthesis.accounts == []
    assert len(synthesis.learn("key", None, source, choice("raw+relational-qa:5"), "chunk")) > 3


# -- generators ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_the_error_rate_is_what_was_asked_and_what_was_measured_is_so(embedded, rate):
    (source,) = load_source({"name": "almanac-papers", "documents": 8}, embedded.prompts.count)
    true = {
        (e.document, e.prompt): e.answer
        for e in learn(embedded, source, choice("qa:12"))[0].supervision.examples
    }
    synthesis = Synthesis(embedded)
    (one,) = synthesis.learn("key", None, source, choice("qa:12", error_rate=rate))
    told = {(e.document, e.prompt): e.answer for e in one.supervision.examples}
    assert told.keys() == true.keys() and len(told) == 96
    wrong = float(np.mean([told[key] != true[key] for key in told]))
    assert synthesis.accounts[0]["error_rate"] == pytest.approx(wrong)
    assert abs(wrong - rate) <= 3 * (rate * (1 - rate) / len(told)) ** 0.5 + 1e-9
    assert all(told[key].isdigit() == true[key].isdigit() for key in told), "years stay years, names names"


WRITTEN = "qa:12+relational-qa:4"


@pytest.fixture(scope="module")
def read_by(embedded, sources):
    """(the source, what perfect questions learn, what a reader makes of them, its account)."""
    source = replace(sources["papers"], probes=sources["papers"].probes[:10])
    synthesis = Synthesis(embedded)
    patch = pytest.MonkeyPatch()
    patch.setattr(learning, "Embedder", lambda: (_ for _ in ()).throw(InputError("no embedder")))
    given = choice(WRITTEN, generator="reader", model="embedded-small")
    found = synthesis.learn("key", None, source, given, "document")
    patch.undo()
    assert synthesis.load("embedded-small") is synthesis.load("embedded-small") is not embedded
    return source, learn(embedded, source, choice(WRITTEN), "document"), found, synthesis.accounts[0]


def test_a_reader_keeps_the_questions_and_gives_its_own_answers(read_by, embedded):
    source, exact, found, row = read_by
    asked = [e for one in exact for e in one.supervision.examples]
    told = [e for one in found for e in one.supervision.examples]
    true = {(e.document, e.prompt): e.answer for e in asked}
    assert [one.source.documents for one in found] == [one.source.documents for one in exact]
    assert {(e.document, e.prompt) for e in told} <= true.keys() and len(told) >= len(asked) // 2
    assert {e.generator for e in told} == {"reader:embedded-small"} and all(e.prompt_hash for e in told)
    right = np.mean([exact_match(e.answer, true[e.document, e.prompt]) for e in told])
    assert row["error_rate"] == pytest.approx(1 - right) and 0 < right < 1, (
        "with the document before it the base answers some, and it is no oracle"
    )
    assert (row["asked"], row["calls"], row["written"]) == (48, 48, len(told))
    assert row["written"] + sum(row["failures"].values()) == 48
    assert (
        row["generator"] == "reader:embedded-small"
        and row["prompt_tokens"] > row["new_tokens"] > 0 < row["seconds"]
    )


def test_a_reader_reads_the_document_of_the_question(read_by, embedded):
    """Asked over another document, it says something else: its answers come from what it reads."""
    source, exact, found, _ = read_by
    told = {(e.document, e.prompt): e.answer for one in found for e in one.supervision.examples}
    known = {e.answer for one in exact for e in one.supervision.examples}
    texts = {document.id: document.text for document in source.documents}
    inside = [answer in texts[name] for (name, _), answer in told.items()]
    elsewhere = [
        answer in text for (name, _), answer in told.items() for other, text in texts.items() if other != name
    ]
    assert np.mean(inside) > np.mean(elsewhere) + 0.2 and known


def test_a_reader_answers_questions_only(sources, embedded):
    with pytest.raises(InputError, match="generator reader answers questions; it cannot write summary:2"):
        learn(embedded, sources["papers"], choice("qa:2+summary:2", generator="reader"))


def test_facts_that_are_not_known_are_said_to_be_so(sources, embedded):
    with pytest.raises(InputError, match="generator exact: .*phonebook.*use generator local or a URL"):
        learn(embedded, sources["phonebook"], choice("qa:2"))
    (one,) = learn(embedded, sources["phonebook"], choice("raw"))
    assert len(one.examples) == len(sources["phonebook"].records)


# -- dry runs and what is kept ---------------------------------------------------------------------------
class Counting:
    """An embedder that counts how often it is asked; every text is the same to it."""

    name = "counting"
    asked = 0

    def embed(self, texts):
        type(self).asked += 1
        return np.ones((len(texts), 1), dtype=np.float32)


def test_what_embeddings_found_is_kept_and_a_dry_run_asks_for_nothing(
    sources, embedded, tmp_path, monkeypatch
):
    monkeypatch.setattr(learning, "Embedder", Counting)
    cache = tmp_path / "cache" / "completions"
    dry = Synthesis(embedded, cache, dry=True)
    dry.learn("key", None, sources["papers"], choice())
    assert not list(tmp_path.iterdir()) and Counting.asked == 0
    assert dry.accounts[0]["overlap"]["embedding"] is None
    found = []
    for _ in range(2):
        synthesis = Synthesis(embedded, cache)
        synthesis.learn("key", None, sources["papers"], choice())
        found.append((synthesis.accounts[0]["overlap"], Counting.asked))
    (first, asked), (second, again) = found
    assert first == second and again == asked > 0 and first["embedder"] == "counting"
    assert len(list(Path(tmp_path / "cache" / "overlap").glob("*.json"))) == 1
