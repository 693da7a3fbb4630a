#!/usr/bin/env bash
# Runs each fuzz target for $1 minutes. libFuzzer needs unstable compiler flags, which
# RUSTC_BOOTSTRAP enables on a stable compiler.
set -euo pipefail
cd "$(dirname "$0")"
tools=$PWD/../../target/tools
[ -x "$tools/bin/cargo-fuzz" ] || cargo install -q cargo-fuzz@0.13.1 --locked --root "$tools"
export RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=$PWD/../../target/fuzz PATH=$tools/bin:$PATH
seeds=$PWD/../tests/fixtures/torch
for target in ${2:-config_json family safetensors pytorch_bin tokenizer_json tokenizer_config vocab_txt wordpiece sentencepiece}; do
  corpus=$CARGO_TARGET_DIR/corpus/$target
  mkdir -p "$corpus"
  case $target in
    config_json)
      cp "$seeds/config.json" "$corpus"
      for family in "$PWD"/../tests/fixtures/families/*/; do
        cp "$family/config.json" "$corpus/$(basename "$family").json"
      done
      ;;
    family)
      # A byte that selects the family, then its config.json.
      n=0
      for family in "$PWD"/../tests/fixtures/families/*/; do
        { printf "\\x$(printf %x $n)"; cat "$family/config.json"; } > "$corpus/$(basename "$family")"
        n=$((n + 1))
      done
      ;;
    wordpiece | sentencepiece) cp "$PWD"/../../examples/data/help.zh.txt "$corpus" ;;
    vocab_txt) cp "$seeds/vocab.txt" "$corpus" ;;
    pytorch_bin) cp "$seeds"/*.bin "$corpus" ;;
    safetensors) cp "$PWD"/seeds/*.safetensors "$corpus" ;;
    tokenizer_json) cp "$PWD"/seeds/*.json "$corpus" ;;
  esac
  cargo fuzz run --fuzz-dir . --target-dir "$CARGO_TARGET_DIR" -s none "$target" "$corpus" -- -max_total_time=$(($1 * 60)) -max_len=65536 -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 2>&1 | tail -n 12
done
