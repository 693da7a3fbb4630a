// Which texts and which keys attention reads. `attention.cu` and `attention_f32.cu` use it.
#pragma once
#include "numbers.cuh"

/// The numbers are those of the host.
enum Mask { FULL, CAUSAL, WINDOW };

/// A block of queries of one text: the rows first_query and following of the text whose `tokens`
/// tokens begin at `start`. The host makes the list once per batch, in any order. Blocks without
/// tokens are skipped.
struct Tile {
    int start, tokens, first_query, unused;
};

/// A range of keys, counted from the text's first. The keys of a prefix come before the text's own.
struct Keys {
    int first, end;
};

/// All keys that any query at the positions first_query..=last_query sees. `reach` is that of a
/// window, and at most 2^30.
DEVICE Keys seen(int mask, int reach, int first_query, int last_query, int keys) {
    switch (mask) {
    case CAUSAL:
        return {0, min(keys, last_query + 1)};
    case WINDOW:
        return {max(0, first_query - reach), min(keys, last_query + reach + 1)};
    default:
        return {0, keys};
    }
}

/// The location of keys and values: those of the tokens before each text, then the text's own.
template <class T> struct Source {
    const T *before, *own; // (before_tokens × stride), (tokens × stride)
    int before_tokens;
    size_t stride;
};

/// The row of key `key`.
template <class T> DEVICE const T* row_of(const Source<T>& source, int key) {
    return key < source.before_tokens ? source.before + key * source.stride
                                      : source.own + (key - source.before_tokens) * source.stride;
}
