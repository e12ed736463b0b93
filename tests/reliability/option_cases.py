"""Options and arguments out of range, of every command."""

from __future__ import annotations

from reliability.case import Case, Cases, as_it_is

FACTS = '{"question": "Who?", "answer": "Ada"}\n'
DOCS = {"docs/a.md": "# A\n\nAda is here.\n"}
STORE = {"store": as_it_is}


def option(command: str, *says: str, about: str, **more) -> Case:
    return Case(command, says, about=tuple(about.split()), **more)


def train(words: str, *says: str, files: dict | None = None) -> Case:
    """An option of `modules train`; the first word of `words` is what is bad."""
    command = f"modules train --supervision s.jsonl --base {{base}} {words}"
    return Case(
        command, says, {"s.jsonl": FACTS, **(files or {})}, about=(words.replace("=", " ").split()[0],)
    )


def synth(words: str, *says: str, **more) -> Case:
    command = f"synth docs --recipe qa:2 --out new/s.jsonl --base {{base}} {words}"
    return Case(command, says, DOCS, about=(words.replace("=", " ").split()[0],), **more)


def probe(words: str, *says: str, files: dict | None = None, **more) -> Case:
    command = f"data probe docs --out new/p.jsonl --generator http://127.0.0.1:{{port}}/v1 --generator-model m --base {{base}} {words}"
    return Case(command, says, {**DOCS, **(files or {})}, about=(words.replace("=", " ").split()[0],), **more)


def ask(words: str, *says: str, about: str = "", **more) -> Case:
    about = about or words.replace("=", " ").split()[0]
    return Case(f"ask Who? --store store --base {{base}} {words}", says, about=(about,), spoil=STORE, **more)


def study(words: str, *says: str, **more) -> Case:
    return Case(f"study run quick {words}", says, about=(words.replace("=", " ").split()[0],), **more)


USAGE: Cases = {
    "no-such-command": option("stdy", "No such command 'stdy'", about=""),
    "no-such-command-of-modules": option("modules trian", "No such command 'trian'", about=""),
    "no-such-option": option("modules list --stor x", "No such option", "--stor", about=""),
    "an-option-without-a-value": option(
        "modules list --store", "--store", "requires an argument", about="--store"
    ),
    "a-flag-with-a-value": option(
        "base info --offline=yes", "--offline", "does not take a value", about="--offline"
    ),
    "too-many-arguments": option("study run quick q02", "unexpected extra argument", about="name"),
    "base-list-of-something": option("base list x", "unexpected extra argument", about=""),
    "data-list-of-something": option("data list x", "unexpected extra argument", about=""),
    "study-list-of-something": option("study list x", "unexpected extra argument", about=""),
    "modules-list-of-something": option("modules list x", "unexpected extra argument", about=""),
    "a-number-of-100000-digits": option(f"study run quick --rows {'9' * 100_000}", "--rows", about="--rows"),
    "an-unknown-option-of-100-kilobytes": option(f"study list --{'x' * 100_000}", "No such option", about=""),
    "an-unknown-command-of-100-kilobytes": option("x" * 100_000, "No such command", about=""),
}

BASE: Cases = {
    "base-unknown": option("base info embeded", "Did you mean 'embedded'?", about="base"),
    "base-empty": option("base info", "base ''", about="base", more=("",)),
    "base-of-control-characters": option("base info", "base", about="base", more=("\x1b[31mred\x07",)),
    "base-of-5000-letters": option(f"base info {'b' * 5000}", "base 'bbb", about="base"),
    "base-of-nobody": option("base info ~nobody-has-this-name/m", "~nobody-has-this-name", about="base"),
    "base-no-hub-id": option("base info a//b --offline", "base 'a//b'", about="base"),
    "base-odd-hub-id": option("base info a/b..c --offline", "base 'a/b..c'", about="base"),
    "base-not-in-the-cache": option("base info nobody/nothing --offline", "loramem base prepare nobody/nothing", about="base"),
    "device-unknown": option("base info {base} --device tpu9", "device 'tpu9' cannot be used", about="--device"),
    "device-of-no-memory": option("base info {base} --device meta", "device 'meta' cannot be used", about="--device"),
    "device-empty": option("base info {base} --device", "device ''", about="--device", more=("",)),
    "device-beyond": option("base info {base} --device cuda:99", "device 'cuda:99' cannot be used", about="--device"),
    "device-number-of-words": option("base info {base} --device cpu:x", "device 'cpu:x' cannot be used", about="--device"),
    "device-of-another-kind": option("base info {base} --device xla", "device 'xla' cannot be used", about="--device"),
    "dtype-unknown": option("base info {base} --dtype float7", "unknown dtype 'float7'", about="--dtype"),
    "dtype-empty": option("base info {base} --dtype", "unknown dtype ''", about="--dtype", more=("",)),
    "dtype-of-whole-numbers": option("base info {base} --dtype int64", "unknown dtype 'int64'", about="--dtype"),
    "prepare-unknown": option("base prepare embeded --to out", "Did you mean 'embedded'?", about="base"),
    "prepare-nowhere": option("base prepare embedded", "Missing option '--to'", about="--to"),
    "prepare-into-a-full-folder": option("base prepare {base} --to out", "out exists and is not an empty folder", about="--to", files={"out/x": "mine"}),
    "prepare-over-a-file": option("base prepare {base} --to out", "out exists and is not an empty folder", about="--to", files={"out": "mine"}),
    "prepare-below-a-file": option("base prepare {base} --to f/out", "f/out", about="--to", files={"f": "mine"}),
    "prepare-where-nothing-can-be-written": option("base prepare {base} --to /proc/loramem", "/proc/loramem", about="--to"),
}  # fmt: skip

DATA: Cases = {
    "data-info-unknown": option("data info phonbook", "unknown source 'phonbook'", "Did you mean 'phonebook'?", about="name"),
    "data-info-of-nothing": option("data info", "Missing argument", about="name"),
    "data-prepare-unknown": option("data prepare phonbook --to out", "Did you mean 'phonebook'?", about="name"),
    "data-prepare-sizes-of-words": option("data prepare phonebook --sizes a --to out", "--sizes 'a': give whole numbers", about="--sizes"),
    "data-prepare-no-sizes": option("data prepare phonebook --to out --base {base} --sizes", "--sizes ''", about="--sizes", more=("",)),
    "data-prepare-sizes-zero": option("data prepare phonebook --sizes 0 --to out --base {base}", "sizes.0", about="--sizes"),
    "data-prepare-sizes-huge": option("data prepare phonebook --sizes 999999999999 --to out --base {base}", "sizes.0", "10000000", about="--sizes"),
    "data-prepare-sizes-of-5000-digits": option(f"data prepare phonebook --sizes {'9' * 5000} --to out --base {{base}}", "--sizes", about="--sizes"),
    "data-prepare-from-nowhere": option("data prepare squad --from none.json --to out --base {base}", "path 'none.json': no such file or folder", about="--from"),
    "data-prepare-generated-from": option("data prepare almanac --from x --to out", "is generated; it takes no --from", about="--from"),
    "data-prepare-unknown-slices": option("data prepare phonebook --slices all --to out --base {base}", "slices", "'recut'", about="--slices"),
    "data-prepare-published-of-nothing": option("data prepare phonebook --slices published --to out --base {base}", "slices: published needs path", about="--slices"),
    "data-prepare-an-unknown-setting": option("data prepare phonebook --set sises=[3] --to out --base {base}", "sises: unknown key", "Did you mean 'sizes'?", about="--set"),
    "data-prepare-half-a-setting": option("data prepare phonebook --set sizes --to out --base {base}", "give PATH=VALUE", about="--set"),
    "data-prepare-over-a-file": option("data prepare phonebook --sizes 9 --to out --base {base}", "out", about="--to", files={"out": "mine"}),
    "data-prepare-where-nothing-can-be-written": option("data prepare phonebook --sizes 9 --to /proc/loramem --base {base}", "/proc/loramem", about="--to"),
    "data-prepare-for-an-unknown-base": option("data prepare phonebook --sizes 9 --to out --base embeded", "Did you mean 'embedded'?", about="--base"),
    "data-prepare-no-facts": option("data prepare almanac-papers --set documents=0 --to out --base {base}", "documents", about="--set"),
    "data-prepare-more-facts-than-there-are": option("data prepare counterfact --sizes 9000000 --to out --base {base}", "size 9000000 is larger than the data", about="--sizes"),
    "probe-of-nothing": option("data probe nowhere --generator local --out p.jsonl --base {base}", "'nowhere' is neither a folder of documents nor a source", about="folder"),
    "probe-into-a-folder": option("data probe docs --generator local --out docs --base {base}", "--out docs: is a folder; name a file in it", about="--out", files=DOCS),
    "probe-below-a-file": option("data probe docs --generator local --out docs/a.md/p --base {base}", "no folder that can be written to", about="--out", files=DOCS),
    "probe-by-an-unknown-generator": option("data probe docs --generator gpt --out p.jsonl --base {base}", "unknown generator 'gpt'", about="--generator", files=DOCS),
    "probe-by-exact": option("data probe docs --generator exact --out p.jsonl --base {base}", "almanac sources have questions of their own", about="--generator", files=DOCS),
    "probe-by-no-model": option("data probe docs --generator http://h/v1 --out p.jsonl --base {base}", "an endpoint needs model", about="--generator-model", files=DOCS),
    "probe-refused": probe("--generator-set endpoint.retries=0", "cannot be reached"),
    "probe-by-an-unknown-setting": probe("--generator-set temprature=1", "Did you mean 'temperature'?"),
    "probe-by-no-number-of-seconds": probe("--generator-set endpoint.timeout=nan", "timeout"),
    "probe-from": probe("--from x", "takes no --from"),
    "probe-an-unknown-setting": probe("--set idz=[a]", "idz: unknown key", "Did you mean 'ids'?"),
    "probe-no-questions": probe("--questions 0", "nothing to ask"),
    "probe-questions-of-words": probe("--questions x", "--questions", "valid integer", "given 'x'"),
    "probe-a-billion-questions": probe("--questions 1000000000", "--questions 1000000000"),
    "probe-unknown-levels": probe("--levels recal", "--levels 'recal'", "Did you mean 'recall'?"),
    "probe-no-levels": probe("--levels ,", "nothing to ask"),
    "probe-shares-above-one": probe("--split 0.5,0.5,0.5", "give three shares that sum to 1"),
    "probe-shares-of-nan": probe("--split nan,0,1", "give three shares that sum to 1"),
    "probe-supervision-torn": probe("--supervision t.jsonl", "t.jsonl:1: not JSON", files={"t.jsonl": "{"}),
    "probe-an-unknown-base": probe("--base embeded", "Did you mean 'embedded'?"),
    "probe-an-unknown-device": probe("--device tpu9", "device 'tpu9' cannot be used"),
    "probe-an-unknown-dtype": probe("--dtype x", "unknown dtype 'x'"),
    "probe-a-store-that-is-a-file": probe("--store f", "store f", files={"f": "x"}),
}  # fmt: skip

TRAIN: Cases = {
    "train-on-nothing": option("modules train", "Missing option '--supervision'", about="--supervision"),
    "train-each-word": train("--each word", "each 'word'; allowed: document, file, record"),
    "train-rank-0": train("--rank 0", "spec.rank", "greater than or equal to 1"),
    "train-rank-negative": train("--rank=-4", "spec.rank"),
    "train-rank-huge": train("--rank 1000000000", "spec.rank", "65536"),
    "train-rank-of-words": train("--rank four", "--rank", "valid integer", "given 'four'"),
    "train-rank-half": train("--rank 1.5", "--rank", "valid integer", "given '1.5'"),
    "train-alpha-0": train("--alpha 0", "spec.alpha"),
    "train-alpha-nan": train("--alpha nan", "spec.alpha"),
    "train-targets-unknown": train("--targets q_prj", "unknown target 'q_prj'", "Did you mean 'q_proj'?"),
    "train-targets-none": train("--targets ,", "targets"),
    "train-lr-0": train("--lr 0", "optimizer.lr"),
    "train-lr-nan": train("--lr nan", "optimizer.lr"),
    "train-lr-infinite": train("--lr 1e999", "optimizer.lr"),
    "train-lr-of-words": train("--lr fast", "--lr", "valid number", "given 'fast'"),
    "train-batch-0": train("--batch 0", "optimizer.batch"),
    "train-batch-huge": train("--batch 1000000000000", "optimizer.batch", "65536"),
    "train-exposures-0": train("--exposures 0", "budget.exposures"),
    "train-exposures-nan": train("--exposures nan", "budget.exposures"),
    "train-exposures-huge": train("--exposures 1e308", "budget.exposures"),
    "train-steps-0": train("--steps 0", "budget.steps"),
    "train-steps-huge": train("--steps 999999999999999999999", "budget.steps", "10000000"),
    "train-steps-and-exposures": train("--steps 3 --exposures 3", "exactly one of steps, exposures and plateau"),
    "train-plateau-0": train("--plateau 0", "budget.plateau.max_exposures"),
    "train-plateau-huge": train("--plateau 1e300", "budget.plateau.max_exposures"),
    "train-snapshots-of-words": train("--snapshots a", "--snapshots 'a': give whole numbers"),
    "train-snapshots-negative": train("--snapshots=-1", "budget.snapshots"),
    "train-snapshots-beyond": train("--snapshots 9 --steps 3", "snapshots [9] lie beyond the 3 steps"),
    "train-dropout-1": train("--dropout 1", "spec.dropout"),
    "train-dropout-negative": train("--dropout=-0.1", "spec.dropout"),
    "train-layers-unknown": train("--layers some", "layers must be all, first-half, second-half"),
    "train-layers-beyond": train("--layers 99", "layers [99]: this base has layers 0..1"),
    "train-layers-negative": train("--layers=-1", "layers [-1]: this base has layers 0..1"),
    "train-layers-none": train("--layers ,", "--layers ',': give whole numbers"),
    "train-variant-unknown": train("--variant loha", "spec.variant", "'lora'"),
    "train-objective-unknown": train("--objective mlm", "objective.name", "'ntp'"),
    "train-objective-without-contexts": train("--objective dcd", "context"),
    "train-distractors-unknown": train("--distractors zz", "no module 'zz'"),
    "train-distractors-none": train("--distractors ,", "no module ''"),
    "train-half-a-setting": train("--set optimizer", "give PATH=VALUE"),
    "train-an-unknown-setting": train("--set optimizer.shedule=linear", "optimizer.shedule: unknown key", "Did you mean 'schedule'?"),
    "train-a-setting-that-is-none": train("--set distractors=5", "distractors"),
    "train-a-setting-of-modules-that-are-none": train("--set distractors.modules=5", "distractors.modules"),
    "train-a-spec-that-is-none": train("--set spec=5", "spec"),
    "train-seed-of-words": train("--seed x", "--seed", "valid integer", "given 'x'"),
    "train-base-unknown": train("--base embeded", "Did you mean 'embedded'?"),
    "train-store-is-a-file": train("--store f", "store f", files={"f": "x"}),
    "train-store-below-a-file": train("--store f/s", "store f/s", files={"f": "x"}),
    "train-store-where-nothing-can-be-written": train("--store /proc/loramem", "store /proc/loramem"),
    "train-store-of-nobody": train("--store ~nobody-has-this-name/s", "~nobody-has-this-name"),
    "train-store-of-a-long-name": train(f"--store {'s' * 5000}", "store 'sss", "too long"),
    "train-device-unknown": train("--device tpu9", "device 'tpu9' cannot be used"),
    "train-dtype-unknown": train("--dtype float7", "unknown dtype 'float7'"),
}  # fmt: skip

STORES: Cases = {
    "list-a-store-that-is-a-file": option("modules list --store f", "store f", about="--store", files={"f": "x"}),
    "show-in-a-store-that-is-a-file": option("modules show a1 --store f", "store f", about="--store", files={"f": "x"}),
    "delete-in-a-store-that-is-a-file": option("modules delete a1 --store f", "store f", about="--store", files={"f": "x"}),
    "export-from-a-store-that-is-a-file": option("modules export a1 --to out --store f", "store f", about="--store", files={"f": "x"}),
    "merge-in-a-store-that-is-a-file": option("modules merge a1 b1 --store f", "store f", about="--store", files={"f": "x"}),
    "a-store-of-the-environment-that-is-a-file": option("modules list", "store f", about="--store", files={"f": "x"}, environment={"LORAMEM_STORE": "f"}),
    "export-of-unknown": option("modules export zz --to out --store store", "no module 'zz'", about="module", spoil=STORE),
    "export-nowhere": option("modules export a1 --store store", "Missing option '--to'", about="--to", spoil=STORE),
}  # fmt: skip

IMPORT: Cases = {
    "import-of-nothing": option("modules import nowhere --base {base}", "nowhere", about="folder"),
    "import-of-a-file": option("modules import f --base {base}", "f", about="folder", files={"f": "x"}),
    "import-of-an-empty-folder": option("modules import d --base {base}", "no adapter_model.safetensors", about="folder", files={"d": lambda path: path.mkdir()}),
    "import-of-text-for-weights": option("modules import d --base {base}", "not a readable safetensors file", about="folder", files={
        "d/adapter_model.safetensors": "x", "d/adapter_config.json": '{"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"]}'}),
    "import-with-text-that-is-not-there": option("modules import d --text t.txt --base {base}", "no such file: t.txt", about="--text", files={"d/x": "x"}),
    "import-with-empty-text": option("modules import d --text t.txt --base {base}", "t.txt is empty", about="--text", files={"d/x": "x", "t.txt": " "}),
    "import-for-an-unknown-base": option("modules import d --base embeded", "Did you mean 'embedded'?", about="--base", files={"d/x": "x"}),
    "import-into-a-file": option("modules import d --store f --base {base}", "store f", about="--store", files={"d/x": "x", "f": "x"}),
    "import-on-an-unknown-device": option("modules import d --device tpu9 --base {base}", "device 'tpu9' cannot be used", about="--device", files={"d/x": "x"}),
    "import-in-an-unknown-dtype": option("modules import d --dtype x --base {base}", "unknown dtype 'x'", about="--dtype", files={"d/x": "x"}),
}  # fmt: skip

DOCTOR: Cases = {
    "doctor-of-a-store-that-is-a-file": option("doctor --store f --base {base}", "f", about="--store", files={"f": "x"}),
    "doctor-of-an-unknown-base": option("doctor --base embeded", "Did you mean 'embedded'?", about="--base"),
    "doctor-of-nobodys-base": option("doctor --base ~nobody-has-this-name/x", "~nobody-has-this-name", about="--base"),
    "doctor-of-an-unknown-device": option("doctor --device tpu9", "device 'tpu9' cannot be used", about="--device"),
    "doctor-of-something": option("doctor quick", "unexpected extra argument", about=""),
    "log-of-nothing": option("study log nowhere", "no log.jsonl there", about="run"),
    "log-of-an-empty-folder": option("study log d", "no log.jsonl there", about="run", files={"d/x": "x"}),
}  # fmt: skip

STUDY: Cases = {
    "study-unknown": option("study run quik", "unknown study 'quik'", "Did you mean 'quick'?", about="name"),
    "study-missing": option("study run nowhere.yaml", "no such file: nowhere.yaml", about="name"),
    "study-of-no-name": option("study run", "unknown study ''", about="name", more=("",)),
    "study-of-5000-letters": option(f"study run {'s' * 5000}", "study 'sss", "too long", about="name"),
    "study-of-nobody": option("study run ~nobody-has-this-name/s.yaml", "~nobody-has-this-name", about="name"),
    "study-of-control-characters": option("study run", "unknown study", about="name", more=("\x1b[2J\x07\u202e",)),
    "study-of-a-name-that-is-not-utf-8": option("study run", "unknown study", about="name", more=("\udcff\udcfe",)),
    "study-here": option("study run .", "folder", about="name"),
    "show-unknown": option("study show quik", "unknown study 'quik'", "Did you mean 'quick'?", about="name"),
    "show-binary": option("study show s.yaml", "not UTF-8", about="name", files={"s.yaml": b"\xff\xfe\xfd"}),
    "study-scale-unknown": study("--scale huge", "no scale 'huge'"),
    "study-base-unknown": study("--base embeded", "Did you mean 'embedded'?"),
    "study-base-empty": option("study run quick --base", "base ''", about="--base", more=("",)),
    "study-base-is-a-file": study("--base f", "base 'f' is a file", files={"f": "x"}),
    "study-store-is-a-file": study("--store f --base {base}", "store f", files={"f": "x"}),
    "study-out-is-a-file": study("--out f --base {base}", "--out f", files={"f": "x"}),
    "study-out-below-a-file": study("--out f/run --base {base}", "--out f/run", files={"f": "x"}),
    "study-out-where-nothing-can-be-written": study("--out /proc/loramem --base {base}", "--out /proc/loramem"),
    "study-seeds-0": study("--seeds 0", "seeds"),
    "study-seeds-negative": study("--seeds=-1", "seeds"),
    "study-seeds-many": study("--seeds 5000", "seeds", "1000"),
    "study-seeds-of-words": study("--seeds many", "--seeds", "valid integer", "given 'many'"),
    "study-executor-unknown": study("--executor rey", "--executor 'rey'", "Did you mean 'ray'?"),
    "study-address-of-a-local-run": study("--address auto", "--address: only with --executor ray"),
    "study-address-of-no-port": study("--address host --executor ray", "--address 'host': give HOST:PORT"),
    "study-track-unknown": study("--track wandbi", "'wandbi'", "Did you mean 'wandb'?"),
    "study-workers-of-words": study("--workers x", "--workers", "valid integer", "given 'x'"),
    "study-workers-0": study("--workers 0 --executor ray", "--workers 0"),
    "study-gpus-negative": study("--gpus=-1 --executor ray", "--gpus -1"),
    "study-gpus-nan": study("--gpus nan --executor ray", "--gpus nan"),
    "study-cpus-0": study("--cpus 0 --executor ray", "--cpus 0"),
    "study-memory-0": study("--memory 0 --executor ray", "--memory 0"),
    "study-memory-infinite": study("--memory inf --executor ray", "--memory inf"),
    "study-all-on-an-unknown-base": option("study run all --base embeded", "Did you mean 'embedded'?", about="--base"),
    "study-all-on-an-unknown-device": option("study run all --device tpu9", "device 'tpu9' cannot be used", about="--device"),
    "study-device-unknown": study("--device tpu9", "device 'tpu9' cannot be used"),
    "study-dtype-unknown": study("--dtype float7", "unknown dtype 'float7'"),
    "study-rows-0": study("--rows 0", "--rows 0: give at least 1"),
    "study-rows-of-words": study("--rows x", "--rows", "valid integer", "given 'x'"),
    "study-hub-id-offline": study("--base nobody/nothing --offline", "loramem base prepare nobody/nothing"),
    "study-target-unknown": study("--set modules.spec.targets=[q_prj] --base {base} --out run", "unknown target 'q_prj'", "Did you mean 'q_proj'?"),
    "study-layers-beyond": study("--set modules.spec.layers=[7] --base {base} --out run", "layers [7]: this base has layers 0..1"),
    "study-size-beyond-the-data": study("--set sources.counterfact.sizes=[9000000] --base {base} --out run", "size 9000000 is larger than the data"),
    "study-path-missing": study("--set sources.phonebook.path=none --base {base} --out run", "path 'none': no such file or folder"),
    "study-path-of-a-long-name": study(f"--set sources.phonebook.path={'p' * 5000} --base {{base}} --out run", "ppp"),
    "study-path-of-nobody": study("--set sources.phonebook.path=~nobody-has-this-name/x --base {base} --out run", "~nobody-has-this-name"),
    "study-embedder-unknown": option(
        "study run s.yaml --base {base} --out run --offline", "embedder 'nobody/nothing' cannot be loaded", about="--offline",
        files={"s.yaml": "extends: quick\nreadings: [closed, rag]\nretrieval: {method: embedding, embedder: nobody/nothing}\n"},
    ),
    "study-judge-of-no-key": option(
        "study run s.yaml --base {base} --out run", "OPENAI_API_KEY", about="name",
        files={"s.yaml": "extends: quick\nmetrics: [judge]\nreadings: [closed]\njudge: {model: m, url: 'https://api.openai.com/v1'}\n"},
    ),
}  # fmt: skip

SYNTH: Cases = {
    "synth-no-recipe": option("synth docs --out s.jsonl", "Missing option '--recipe'", about="--recipe", files=DOCS),
    "synth-recipe-empty": option("synth docs --out s.jsonl --recipe", "unknown part ''", about="--recipe", files=DOCS, more=("",)),
    "synth-recipe-unknown": option("synth docs --out s.jsonl --recipe sumary:2", "unknown part 'sumary'", "Did you mean 'summary'?", about="--recipe", files=DOCS),
    "synth-recipe-too-many": option("synth docs --out s.jsonl --recipe qa:0+raw:3+raw+raw", "give qa a number", "raw takes no number", "raw is named twice", about="--recipe", files=DOCS),
    "synth-recipe-of-a-megabyte": option(f"synth docs --out s.jsonl --recipe {'+'.join(['qqq'] * 30_000)}", "30,000 parts", about="--recipe", files=DOCS),
    "synth-nowhere": option("synth docs --recipe raw", "Missing option '--out'", about="--out", files=DOCS),
    "synth-into-a-folder": option("synth docs --recipe raw --out docs", "--out docs: is a folder; name a file in it", about="--out", files=DOCS),
    "synth-below-a-file": option("synth docs --recipe raw --out docs/a.md/s", "no folder that can be written to", about="--out", files=DOCS),
    "synth-where-nothing-can-be-written": option("synth docs --recipe raw --out /proc/s.jsonl --base {base}", "/proc", about="--out", files=DOCS),
    "synth-from": synth("--from x", "takes no --from"),
    "synth-generator-unknown": synth("--generator gpt", "unknown generator 'gpt'; allowed: URL, exact, local, reader."),
    "synth-generator-exact": synth("--generator exact", "use generator local or a URL"),
    "synth-generator-of-a-bad-scheme": synth("--generator ftp://h/v1", "unknown generator 'ftp://h/v1'"),
    "synth-generator-refused": synth("--generator http://127.0.0.1:{port}/v1 --generator-model m --generator-set endpoint.retries=0", "cannot be reached"),
    "synth-generator-without-a-key": synth("--generator https://api.openai.com/v1 --generator-model m", "set the environment variable OPENAI_API_KEY"),
    "synth-generator-with-a-key-of-no-key": synth(
        "--generator http://127.0.0.1:{port}/v1 --generator-model m", "OPENAI_API_KEY holds characters that no key has", environment={"OPENAI_API_KEY": "a\x07b"}
    ),
    "synth-generator-of-no-host": synth("--generator http:// --generator-model m", "url: expected http(s)://HOST"),
    "synth-model-empty": synth("--generator-model= --generator http://h/v1", "an endpoint needs model"),
    "synth-model-of-exact": synth("--generator-model m", "generator exact takes no model"),
    "synth-model-no-base": synth("--generator-model embeded --generator local", "Did you mean 'embedded'?"),
    "synth-setting-half": synth("--generator-set temperature", "--generator-set 'temperature': give PATH=VALUE, e.g. temperature=0"),
    "synth-setting-unknown": synth("--generator-set temprature=1", "Did you mean 'temperature'?"),
    "synth-setting-hot": synth("--generator-set temperature=9", "temperature"),
    "synth-setting-nan": synth("--generator-set error_rate=.nan", "error_rate"),
    "synth-setting-deep": synth("--generator-set recipe.x=1", "recipe holds a value"),
    "synth-source-setting-unknown": synth("--set idz=[a]", "source.idz: unknown key", "Did you mean 'ids'?"),
    "synth-source-setting-of-a-number": synth("--set path=5", "source.path"),
    "synth-partition-unknown": synth("--partition chapter", "partition 'chapter'"),
    "synth-partition-of-no-tokens": synth("--partition tokens:0", "partition 'tokens:0'"),
    "synth-chunking-unknown": synth("--chunking big", "chunks 'big'"),
    "synth-chunking-overlap": synth("--chunking 9/9", "0 <= overlap < tokens"),
    "synth-base-unknown": synth("--base embeded", "Did you mean 'embedded'?"),
    "synth-store-is-a-file": synth("--store docs/a.md --generator local", "store docs/a.md"),
    "synth-device-unknown": synth("--device tpu9", "device 'tpu9' cannot be used"),
    "synth-dtype-unknown": synth("--dtype x", "unknown dtype 'x'"),
    "synth-a-kind-misspelt": option("synth almanak --recipe raw --out s.jsonl", "Did you mean 'almanac'?", about="source"),
    "synth-several-sizes": option("synth almanac --set sizes=[100,300] --recipe raw --out s.jsonl --base {base}", "give one: --set sizes=[300]", about="--set"),
}  # fmt: skip

ASK: Cases = {
    "ask-nothing": option("ask", "Missing argument", about="questions"),
    "ask-an-empty-question": option("ask --modules a1 --store store --base {base}", "the question is empty", about="questions", more=("",), spoil=STORE),
    "ask-a-question-that-is-not-utf-8": option("ask --modules a1 --store store --base {base}", "not UTF-8 text", about="questions", more=("Who is \udcff?",), spoil=STORE),
    "ask-a-question-too-long": option("ask --modules a1 --store store --base {base}", "is too long", about="questions", more=("who " * 20_000,), spoil=STORE),
    "ask-one-of-two-empty": option("ask Who? --modules a1 --store store --base {base}", "question 2 is empty", about="questions", more=(" ",), spoil=STORE),
    "ask-standard-input-empty": option("ask - --modules a1 --store store --base {base}", "standard input holds no question", about="questions", stdin=b"", spoil=STORE),
    "ask-standard-input-blank": option("ask - --modules a1 --store store --base {base}", "standard input holds no question", about="questions", stdin=b"\n \n\t\n", spoil=STORE),
    "ask-standard-input-latin-1": option("ask - --modules a1 --store store --base {base}", "standard input: not UTF-8 text (byte 2)", about="questions", stdin=b"Zo\xeb", spoil=STORE),
    "ask-standard-input-and-more": option("ask - Who? --modules a1 --store store --base {base}", "give no others beside it", about="questions", stdin=b"Who?", spoil=STORE),
    "ask-no-modules": ask("", "needs modules: give ids, or all", about="--modules"),
    "ask-an-unknown-module": ask("--modules zz", "no module 'zz'"),
    "ask-all-and-one": ask("--modules all --modules a1", "give ids, or all, not both"),
    "ask-an-empty-store": option("ask Who? --modules all --store none --base {base}", "no modules in none", about="--store"),
    "ask-a-store-that-is-a-file": option("ask Who? --modules all --store f --base {base}", "f", about="--store", files={"f": "x"}),
    "ask-by-an-unknown-reading": ask("--reading modul --modules a1", "unknown reading", "Did you mean 'module'?"),
    "ask-by-what-only-a-study-knows": ask("--reading gold-passage --modules a1", "needs what only a study knows"),
    "ask-one-of-several": ask("--reading module --modules a1 --modules b1b1", "uses one module, 2 were given"),
    "ask-by-an-unknown-router": ask("--router embeding --modules a1 --modules b1b1", "Did you mean 'embedding'?"),
    "ask-by-an-oracle": ask("--router oracle --modules a1 --modules b1b1", "nobody knows the right module"),
    "ask-by-an-unknown-key": ask("--key title --modules a1 --modules b1b1", "key"),
    "ask-by-a-key-of-weights": ask("--key introduction --router spectr --modules a1 --modules b1b1", "reads no text of a module"),
    "ask-the-best-none": ask("--top-k 0 --reading merged --modules a1 --modules b1b1", "top_k"),
    "ask-the-best-of-words": ask("--top-k x --reading merged --modules a1", "--top-k", "valid integer", "given 'x'"),
    "ask-by-an-unknown-rule": ask("--rule ties --reading merged --modules a1 --modules b1b1", "unknown merge rule 'ties'"),
    "ask-by-a-rule-without-merging": ask("--rule cat --reading module --modules a1", "merges nothing"),
    "ask-below-nan": ask("--none-below nan --modules a1 --modules b1b1", "none_below"),
    "ask-below-and-always": ask("--none-below 0.5 --always --modules a1 --modules b1b1", "contradict each other"),
    "ask-of-no-folder": ask("--documents nowhere --reading rag", "path 'nowhere': no such folder"),
    "ask-of-an-empty-folder": ask("--documents d --reading rag", "d: no .md", files={"d": lambda path: path.mkdir()}),
    "ask-of-documents-that-nothing-reads": ask("--documents docs --reading closed", "documents are read by +icl and +rag", files=DOCS),
    "ask-of-no-passages": ask("--passages-k 0 --reading rag --documents docs", "passages_k", files=DOCS),
    "ask-of-passages-of-words": ask("--passages-k x --reading rag --documents docs", "--passages-k", "valid integer", "given 'x'", files=DOCS),
    "ask-by-an-unknown-retriever": ask("--retriever bm52 --reading rag --documents docs", "retrieval.method", "'bm25'", files=DOCS),
    "ask-by-gold": ask("--retriever gold --reading rag --documents docs", "nobody knows the right passage", files=DOCS),
    "ask-an-unknown-base": option("ask Who? --reading closed --base embeded", "Did you mean 'embedded'?", about="--base"),
    "ask-on-an-unknown-device": ask("--device tpu9 --modules a1", "device 'tpu9' cannot be used"),
    "ask-in-an-unknown-dtype": ask("--dtype x --modules a1", "unknown dtype 'x'"),
}  # fmt: skip

OPTIONS: Cases = {**USAGE, **BASE, **DATA, **TRAIN, **STORES, **IMPORT, **DOCTOR, **STUDY, **SYNTH, **ASK}
