#!/usr/bin/env bash
# Everything that needs an accelerator, in one call of about eight minutes: benches at the size of an 8B base (a random one of
# its shape), the proofs of tests/ on the device, and the quick study. One part that fails or is too slow keeps no other from running.
# Usage: COMMIT=$(git rev-parse HEAD) bash benchmarks/cuda.sh FOLDER-FOR-RESULTS
set -uo pipefail
cd "$(dirname "$0")/.."
out=$1; mkdir -p "$out"
scratch=$(mktemp -d); trap 'rm -rf "$scratch"' EXIT
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONUNBUFFERED=1 PYTHONPATH=$PWD/src${PYTHONPATH:+:$PYTHONPATH}
keep=(--write --results "$out" --device cuda ${COMMIT:+--commit "$COMMIT"})
big=(--base llama-3.1-8b --dtype bfloat16)
small=(--base embedded --dtype float32)

part() {  # part SECONDS NAME COMMAND...
  local limit=$1 name=$2 began=$SECONDS code=0; shift 2
  timeout "$limit" "$@" >"$scratch/log" 2>&1 || code=$?
  { printf '== %s: exit %s, %s s\n' "$name" "$code" $((SECONDS - began)); cat "$scratch/log"; } >>"$out/cuda.log"
  printf '== %s: exit %s, %s s\n' "$name" "$code" $((SECONDS - began))
  grep -v '^{' "$scratch/log" | tail -n 12 | cut -c1-300
}

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
python3 -c 'import peft, loramem.api' || exit 2
part 110 bank python3 benchmarks/bank.py "${big[@]}" "${keep[@]}" --modules 1,4,16 --rank 16 --steps 10
part 50 read python3 benchmarks/read.py "${big[@]}" "${keep[@]}"
part 50 context python3 benchmarks/context.py "${big[@]}" "${keep[@]}" --tokens 4000 --questions 48 --single 6
part 50 repeat python3 benchmarks/repeat.py "${small[@]}" "${keep[@]}" --name repeat
part 90 proofs env LORAMEM_TEST_DEVICE=cuda python3 -m pytest -p no:cacheprovider -n 8 --no-header --tb=line -p no:warnings \
  tests/training tests/inference tests/modules/test_bank.py tests/modules/test_variants.py tests/modules/test_padding.py
part 80 study python3 -m loramem study run quick --device cuda --offline --store "$scratch/store" --out "$scratch/run"
part 50 distil python3 benchmarks/distil.py "${big[@]}" "${keep[@]}" --repeats 2
part 50 repeat-8b python3 benchmarks/repeat.py "${big[@]}" "${keep[@]}" --name repeat-8b --steps 10
part 50 merge python3 benchmarks/merge.py --base llama-3.2-1b --dtype bfloat16 "${keep[@]}" --modules 4 --steps 20 --few 2 --repeats 2 \
  --rules cat,linear-factors,ties-factors,svd-delta
