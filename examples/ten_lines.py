"""A study from Python: one rank, two sizes, one seed, about half a minute. Run: python examples/ten_lines.py"""

from pathlib import Path

from loramem.api import Store, load_base, load_study, run_study

small = [
    "modules.spec.rank=[4]",
    "sources.phonebook.sizes=[250,500]",
    "sources.counterfact.sizes=[250]",
    "seeds=1",
]
study = load_study("quick", assignments=small)
result = run_study(study, load_base(study.file.base), Store("runs/store"), Path("runs/ten-lines"))
for cell in result.summary["cells"]:
    print(
        f"{cell['cell']:40} {cell['metric']:18} {cell['mean']:.2f} [{cell['ci_low']:.2f}, {cell['ci_high']:.2f}] n={cell['n']}"
    )
print(result.report)
