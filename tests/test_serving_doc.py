"""docs/serving.md: its Python asks the right module, or none; its commands exist; what it says of prompts is what templates write."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from loramem.answering.asking_settings import NONE_BELOW
from loramem.cli.app import app
from loramem.inference.limits import MAX_NEW_TOKENS
from loramem.modules import vllm
from loramem.modules.spec import LoraSpec
from loramem.modules.store import Store
from modules.keeping import keep

PAGE = (Path(__file__).parents[1] / "docs" / "serving.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^loramem .*?(?=\s+#|$)", PAGE, flags=re.MULTILINE)


def test_its_python_asks_the_right_module_or_none(bases, tmp_path):
    base, store = bases["llama"], Store(tmp_path / "store")
    texts = ["The harbour of Quell was dredged by the Vostrand company.", "Mirelle keeps the lighthouse of Ostra and paints herons."]  # fmt: skip
    kept = [keep(store, base, LoraSpec(rank=2), seed=n, text=text) for n, text in enumerate(texts)]
    [block] = [one for one in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL) if "route" in one]
    names: dict = {"BASE": base.name, "STORE": store.root}
    exec(compile(block, "serving.md", "exec"), names)
    for module, question in zip(kept, ("Who dredged the harbour of Quell?", "Who keeps the lighthouse of Ostra?"), strict=True):  # fmt: skip
        body = names["request"](question)
        assert body["model"] == module.id[:12] and body["prompt"] == base.prompts.chat(question)
        assert body["max_tokens"] == MAX_NEW_TOKENS and set(body["stop_token_ids"]) == base.prompts.stop_ids
    assert names["request"]("zzz 17 + 4?") is None, "not in memory"
    assert ("embedding", "document") in NONE_BELOW


@pytest.mark.parametrize("line", COMMANDS)
def test_its_commands_parse(line):
    words = shlex.split(re.sub(r"\[(--\w+) \w+\]", r"\1 x", line))[1:]
    command = get_command(app)
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    command.make_context(command.name, words)


def test_the_chat_endpoint_is_sent_what_templates_render(bases):
    """A server renders the template and tokenises the text: the same ids as the builder's, for bases with a template."""
    for family, base in bases.items():
        if base.prompts.has_chat:
            said = [{"role": "user", "content": "Who keeps the lighthouse?"}]
            text = base.tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True, enable_thinking=False)  # fmt: skip
            ids = base.tokenizer(text, add_special_tokens=False)["input_ids"]
            assert ids == base.prompts.chat("Who keeps the lighthouse?"), family
        else:
            words = base.tokenizer.decode(base.prompts.chat("Who keeps the lighthouse?"))
            assert words == "<s>Question: Who keeps the lighthouse?\nAnswer:"


def test_its_limits_are_the_ones_that_are_checked():
    assert ", ".join(map(str, vllm.RANKS[:-1])) + f" or {vllm.RANKS[-1]}" in PAGE
    assert f"without it the limit is {vllm.DEFAULT_RANK}" in PAGE
    assert vllm.limit_for(12) == 16 and vllm.limit_for(17) == 32
