"""What is wrong with a study's supervision, partitions, bases and sweeps: every fault at once, exit code 2, before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tinystudy import PHONES, body

PAPERS = {
    "sources": {"papers": {"name": "almanac-papers", "documents": 1, "questions": 1}},
    "modules__spec__rank": [1],
}
SWEEP = {"sweep": [0.01], "dev_tokens": 50}
URL = "http://localhost:9/v1"
LIMIT = {"papers": {"metric": "exact_match", "thresholds": [0.9]}}

ALONE = {
    "unknown partition": ({"partition": "documents"}, ["partition 'documents'", "Did you mean 'document'"]),
    "one of several partitions": ({"partition": ["corpus", "tokens:0"]}, ["partition 'tokens:0'", "tokens:N (N > 0)"]),
    "partition twice": ({"partition": ["corpus", "corpus"]}, ["partition: 'corpus' is named twice"]),
    "no partition": ({"partition": []}, ["partition: an empty list has no values"]),
    "partition as number": ({"partition": 3}, ["partition"]),
    "chunking": ({"partition": "chunk", "chunking": "big"}, ["chunks 'big': expected TOKENS, TOKENS/OVERLAP or structure:TOKENS"]),
    "chunks of nothing": ({"chunking": "0"}, ["needs tokens >= 1"]),
    "overlap beyond the chunk": ({"chunking": "10/10"}, ["0 <= overlap < tokens"]),
    "unknown generator": ({"supervision": {"recipe": "qa:2", "generator": "exat"}}, ["supervision", "unknown generator", "Did you mean 'exact'"]),
    "unknown recipe": ({"supervision": {"recipe": ["raw", "sumary:2"]}}, ["unknown part 'sumary'", "Did you mean 'summary'"]),
    "recipe without a number": ({"supervision": {"recipe": "qa"}}, ["give qa a number from 1 to 100,000, e.g. qa:10"]),
    "number of the text": ({"supervision": {"recipe": "raw:3"}}, ["raw takes no number"]),
    "part twice": ({"supervision": {"recipe": "qa:3+qa:4"}}, ["qa is named twice"]),
    "error rate of a model": ({"supervision": {"recipe": "qa:2", "generator": "local", "error_rate": 0.1}}, ["error_rate belongs to generator exact"]),
    "error rate of two": ({"supervision": {"recipe": "qa:2", "error_rate": [0, 1.5]}}, ["supervision.error_rate", "1.5"]),
    "endpoint without model": ({"supervision": {"recipe": "qa:2", "generator": URL}}, ["an endpoint needs model"]),
    "settings without endpoint": ({"supervision": {"recipe": "qa:2", "endpoint": {"timeout": 3}}}, ["endpoint settings without an endpoint's URL"]),
    "model of exact": ({"supervision": {"recipe": "qa:2", "model": "embedded"}}, ["generator exact takes no model"]),
    "unknown key": ({"supervision": {"recipe": "qa:2", "temprature": 1}}, ["supervision.temprature: unknown key", "Did you mean 'temperature'"]),
    "empty list": ({"supervision": {"recipe": []}}, ["supervision.recipe: an empty list has no values"]),
    "no supervision": ({"supervision": []}, ["supervision: an empty list has no values"]),
    "second of several": ({"supervision": [{"recipe": "raw"}, {"recipe": "qa"}]}, ["supervision[1]", "give qa a number"]),
    "supervision as text": ({"supervision": "raw"}, ["supervision"]),
    "no base": ({"base": []}, ["base: an empty list has no values"]),
    "capacity of parts": ({"partition": "document", "capacity": LIMIT}, ["partition: document with capacity", "use corpus"]),
    "capacity of several supervisions": ({"supervision": {"recipe": ["raw", "qa:2"]}, "capacity": LIMIT}, ["supervision: 2 values with capacity"]),
    "capacity of several bases": ({"base": ["a", "b"], "capacity": LIMIT}, ["base: 2 values with capacity"]),
    "length without rate": ({"modules__budget": {"exposures": {"sweep": [2, 4]}}}, ["budget.exposures is swept, so optimizer.lr must be"]),
    "lengths of nothing": ({"modules__budget": {"steps": {"sweep": []}}, "modules__optimizer": {"lr": SWEEP}}, ["modules.budget.sweep"]),
    "half a step": ({"modules__budget": {"steps": {"sweep": [2.5]}}, "modules__optimizer": {"lr": SWEEP}}, ["steps", "2.5"]),
    "two lengths": ({"modules__budget": {"steps": {"sweep": [2]}, "exposures": 3}, "modules__optimizer": {"lr": SWEEP}}, ["exactly one"]),
}  # fmt: skip


def run(loramem, folder: Path, **changes) -> tuple[int, str]:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(body(**{**PAPERS, **changes})))
    code, said, error = loramem("study", "run", path, "--out", folder / "run")
    assert "Traceback" not in said + error and not (folder / "run").exists()
    return code, " ".join(error.split())


@pytest.mark.parametrize("case", ALONE)
def test_a_fault_is_named_with_what_is_allowed(loramem, tmp_path, case):
    changes, wanted = ALONE[case]
    code, error = run(loramem, tmp_path, **changes)
    assert code == 2, error
    assert all(text in error for text in wanted), error


@pytest.mark.parametrize(
    ("supervision", "partition", "chunking", "wanted"),
    [
        (
            {"recipe": ["raw", "qa", "qa:2"], "generator": ["exact", "exat"]}, ["document", "docs"], "big",
            ["give qa a number", "unknown generator", "partition 'docs'", "chunks 'big'", "partition: document with capacity"],
        ),
        (
            {"recipe": "qa:2", "generator": ["local", URL], "error_rate": [0.0, 0.5]}, [], "10/20",
            ["error_rate belongs to generator exact", "an endpoint needs model", "partition: an empty list", "chunks of 10 tokens with overlap 20"],
        ),
        (
            [{"recipe": []}, {"recipe": "raw", "nothing": 1}], "corpus", "0",
            ["supervision[0].recipe: an empty list", "supervision[1].nothing: unknown key", "needs tokens >= 1"],
        ),
    ],
)  # fmt: skip
def test_all_faults_come_at_once(loramem, tmp_path, supervision, partition, chunking, wanted):
    code, error = run(
        loramem, tmp_path, supervision=supervision, partition=partition, chunking=chunking, base=["x/same", "y/same"],
        modules__budget={"steps": {"sweep": [2, 4]}}, capacity=LIMIT, metrics=["exact_match", "token_f2"],
    )  # fmt: skip
    assert code == 2
    wanted = [*wanted, "both be called same", "budget.steps is swept", "unknown metric 'token_f2'", "base: 2 values with capacity"]  # fmt: skip
    assert not [text for text in wanted if text not in error], error
    assert f"{error.count(' - ')} faults" in error, "each on a line of its own"


def test_what_only_the_source_knows_is_said_before_training(loramem, checkpoints, tmp_path):
    """Facts that are not known, pairs that were never published, questions that a reader cannot answer: together, by source."""
    path = tmp_path / "study.yaml"
    asked = [{"recipe": ["qa:2", "published"]}, {"recipe": "summary:2", "generator": "reader"}]
    path.write_text(yaml.safe_dump(body(**{**PHONES, "sources__phonebook__sizes": [60]}, supervision=asked)))
    code, said, error = loramem(
        "study", "run", path, "--base", checkpoints["llama"], "--out", tmp_path / "run"
    )
    assert code == 2 and "Traceback" not in said + error
    error = " ".join(error.split())
    assert (
        "supervision: phonebook, qa:2: generator exact: source 'phonebook': its facts are not known" in error
    )
    assert "supervision: phonebook, published: recipe published: source 'phonebook' comes without" in error
    assert "phonebook, summary:2: generator exact" in error, "a reader is asked perfect questions"
    assert "train:" not in said
