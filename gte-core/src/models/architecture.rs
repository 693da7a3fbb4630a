//! `Architecture`: a transformer encoder as values. `encoder.rs` computes any of them; a family's file makes one of a
//! `config.json`.

use super::{Family, Pooling};
use crate::kernels::{Activation, Mask};

/// What a model computes. Sizes are in values, lengths in tokens.
#[derive(Clone)]
pub(crate) struct Architecture {
    pub(crate) family: &'static Family,
    /// Width of a hidden state.
    pub(crate) hidden: usize,
    /// Tokens in the vocabulary.
    pub(crate) vocab: usize,
    /// The longest text that the positions allow.
    pub(crate) max_tokens: usize,
    /// A table of learned positions: its rows, and which of them a token takes.
    pub(crate) positions: Option<(usize, PositionRule)>,
    /// Rows of the token type table; 0 where there is none.
    pub(crate) token_types: usize,
    /// Whether the sum of the embeddings is normed.
    pub(crate) embedding_norm: bool,
    pub(crate) norm: NormSpec,
    pub(crate) attention: AttentionSpec,
    pub(crate) mlp: MlpSpec,
    /// What differs between layers, one entry per layer.
    pub(crate) layers: Vec<LayerSpec>,
    pub(crate) task: Task,
}

/// Which row of a table of positions a token takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PositionRule {
    /// Its place in the text, from 0.
    Index,
    /// The pad id plus the number of tokens up to it that are not the pad token, itself included; a pad token takes
    /// the row of the pad id (`create_position_ids_from_input_ids` in transformers' `modeling_roberta.py`).
    AfterPad(u32),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct NormSpec {
    pub(crate) kind: NormKind,
    pub(crate) eps: f32,
    pub(crate) bias: bool,
    pub(crate) place: NormPlace,
    /// Whether the first layer norms what goes into its attention. (ModernBERT's does not: the embedding is normed.)
    pub(crate) first_attention: bool,
    /// Whether the last hidden state is normed once more.
    pub(crate) at_end: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NormKind {
    /// Ba et al. 2016, <https://arxiv.org/abs/1607.06450>.
    Layer,
    /// Zhang, Sennrich 2019, <https://arxiv.org/abs/1910.07467>.
    Rms,
}

/// Where a block's norm stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NormPlace {
    /// x ← norm(x + block(x))
    After,
    /// x ← x + block(norm(x))
    Before,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AttentionSpec {
    /// Query heads.
    pub(crate) heads: usize,
    /// Key and value heads, a divisor of `heads`: each serves as many query heads.
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    /// Whether each head of queries and keys is RMS-normed.
    pub(crate) qk_norm: bool,
    pub(crate) qkv_bias: bool,
    pub(crate) output_bias: bool,
}

impl AttentionSpec {
    /// Widths of queries, keys and values.
    pub(crate) fn widths(&self) -> [usize; 3] {
        [self.heads, self.kv_heads, self.kv_heads].map(|heads| heads * self.head_dim)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MlpSpec {
    /// Width between the two linear layers.
    pub(crate) inner: usize,
    pub(crate) activation: Activation,
    pub(crate) gate: Gate,
    pub(crate) up_bias: bool,
    pub(crate) down_bias: bool,
}

/// Whether the first linear layer has two halves whose product goes on (Shazeer 2020, <https://arxiv.org/abs/2002.05202>).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    /// No halves: down(activation(up(x))).
    None,
    /// The activation is on the first half.
    First,
    /// The activation is on the second half.
    Second,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct LayerSpec {
    pub(crate) mask: Mask,
    pub(crate) rope: Option<RopeSpec>,
}

/// Rotary positions (Su et al. 2021, <https://arxiv.org/abs/2104.09864>): pair i of d / 2 turns by
/// position · theta^(−2i / d) / divisor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct RopeSpec {
    pub(crate) theta: f64,
    pub(crate) divisor: f64,
}

impl RopeSpec {
    /// The angle by which pair `i` of a head of `d` values turns per position.
    pub(crate) fn frequency(&self, i: usize, d: usize) -> f64 {
        self.theta.powf(-((2 * i) as f64) / d as f64) / self.divisor
    }
}

/// What the files make of the hidden states.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Task {
    /// Vectors; `sparse` if the files have a weight per token beside them.
    Embed { sparse: bool },
    /// Scores of one text or a pair of texts.
    Classify(ClassifierSpec),
    /// A language model: vectors or the score of a yes, as the modules beside it say. `tied`: the output layer is the
    /// table of word embeddings.
    Language { tied: bool },
}

/// A classifier on top of one pooled hidden state: out(norm(activation(dense(x)))).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct ClassifierSpec {
    pub(crate) labels: usize,
    pub(crate) pooling: Pooling,
    /// The layer before the last one: its activation, and whether it has a bias.
    pub(crate) dense: Option<(HeadActivation, bool)>,
    pub(crate) norm: bool,
    pub(crate) out_bias: bool,
    /// Tokens of this id at the end of a text are passed over by last-token pooling.
    pub(crate) pad: Option<u32>,
}

/// Activations of the small layers behind pooling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeadActivation {
    Identity,
    Tanh,
    Gelu,
    GeluTanh,
    Relu,
    Silu,
    Sigmoid,
}

/// What the tensors of a family are called, without the prefix of a wrapper and without `.weight` and `.bias`. A name
/// that a family does not have is empty.
pub(crate) struct Names {
    pub(crate) words: &'static str,
    pub(crate) positions: &'static str,
    pub(crate) types: &'static str,
    pub(crate) embedding_norm: &'static str,
    /// What stands before the number of a layer.
    pub(crate) layer: &'static str,
    /// Queries, keys and values: one tensor with all rows, or three.
    pub(crate) qkv: &'static [&'static str],
    pub(crate) q_norm: &'static str,
    pub(crate) k_norm: &'static str,
    pub(crate) attention_output: &'static str,
    pub(crate) attention_norm: &'static str,
    /// The first linear layer of the MLP: one tensor with all rows, or one per half.
    pub(crate) up: &'static [&'static str],
    pub(crate) down: &'static str,
    pub(crate) mlp_norm: &'static str,
    pub(crate) final_norm: &'static str,
    pub(crate) head_dense: &'static str,
    pub(crate) head_norm: &'static str,
    pub(crate) head_out: &'static str,
    /// The output layer of a language model.
    pub(crate) language: &'static str,
    /// Beginnings of names that checkpoints hold beside these and no result depends on.
    pub(crate) harmless: &'static [&'static str],
}

/// A tensor that a checkpoint must have, with its shape.
pub(crate) type TensorSpec = (String, Vec<usize>);

impl Names {
    /// A part of layer `layer`.
    pub(crate) fn of(&self, layer: usize, part: &str) -> String {
        format!("{}{layer}.{part}", self.layer)
    }
}

impl Architecture {
    /// Whether a token sees only the tokens before it, in every layer.
    pub(crate) fn causal(&self) -> bool {
        self.layers.iter().all(|layer| layer.mask == Mask::Causal)
    }

    /// The spelling of names that a checkpoint uses: the first whose layers it `has` a tensor of.
    pub(crate) fn spelling(&self, has: impl Fn(&str) -> bool) -> &'static Names {
        let names = self.family.names;
        let used = |names: &&Names| has(&format!("{}.weight", names.of(0, names.qkv[0])));
        names.iter().find(used).unwrap_or(&names[0])
    }

    /// Every tensor of the model under its name in `names`, with its shape.
    pub(crate) fn tensors(&self, names: &Names) -> Vec<TensorSpec> {
        let mut table = Vec::new();
        let hidden = self.hidden;
        let mut matrix = |name: &str, rows: usize| table.push((format!("{name}.weight"), vec![rows, hidden]));
        matrix(names.words, self.vocab);
        if let Some((rows, _)) = self.positions {
            matrix(names.positions, rows);
        }
        if self.token_types > 0 {
            matrix(names.types, self.token_types);
        }
        if self.embedding_norm {
            self.norm_tensors(&mut table, names.embedding_norm.to_owned(), self.norm.bias);
        }
        for i in 0..self.layers.len() {
            self.layer_tensors(&mut table, names, i);
        }
        if self.norm.at_end {
            self.norm_tensors(&mut table, names.final_norm.to_owned(), self.norm.bias);
        }
        match self.task {
            Task::Embed { sparse: false } | Task::Language { tied: true } => {}
            Task::Embed { sparse: true } => linear(&mut table, names.head_out.to_owned(), (1, hidden), true),
            Task::Language { tied: false } => {
                table.push((format!("{}.weight", names.language), vec![self.vocab, hidden]))
            }
            Task::Classify(head) => {
                if let Some((_, bias)) = head.dense {
                    linear(&mut table, names.head_dense.to_owned(), (hidden, hidden), bias);
                }
                if head.norm {
                    self.norm_tensors(&mut table, names.head_norm.to_owned(), self.norm.bias);
                }
                linear(&mut table, names.head_out.to_owned(), (head.labels, hidden), head.out_bias);
            }
        }
        table
    }

    fn layer_tensors(&self, table: &mut Vec<TensorSpec>, names: &Names, i: usize) {
        let (hidden, attention, mlp) = (self.hidden, &self.attention, &self.mlp);
        let widths = attention.widths();
        match names.qkv {
            [all] => linear(table, names.of(i, all), (widths.iter().sum(), hidden), attention.qkv_bias),
            parts => {
                for (part, width) in parts.iter().zip(widths) {
                    linear(table, names.of(i, part), (width, hidden), attention.qkv_bias);
                }
            }
        }
        if attention.qk_norm {
            for norm in [names.q_norm, names.k_norm] {
                table.push((format!("{}.weight", names.of(i, norm)), vec![attention.head_dim]));
            }
        }
        linear(table, names.of(i, names.attention_output), (hidden, widths[0]), attention.output_bias);
        if i > 0 || self.norm.first_attention {
            self.norm_tensors(table, names.of(i, names.attention_norm), self.norm.bias);
        }
        let halves = if mlp.gate == Gate::None { 1 } else { 2 };
        let rows = halves * mlp.inner / names.up.len();
        for part in names.up {
            linear(table, names.of(i, part), (rows, hidden), mlp.up_bias);
        }
        linear(table, names.of(i, names.down), (hidden, mlp.inner), mlp.down_bias);
        self.norm_tensors(table, names.of(i, names.mlp_norm), self.norm.bias);
    }

    fn norm_tensors(&self, table: &mut Vec<TensorSpec>, name: String, bias: bool) {
        table.push((format!("{name}.weight"), vec![self.hidden]));
        if bias {
            table.push((format!("{name}.bias"), vec![self.hidden]));
        }
    }
}

fn linear(table: &mut Vec<TensorSpec>, name: String, (outputs, inputs): (usize, usize), bias: bool) {
    table.push((format!("{name}.weight"), vec![outputs, inputs]));
    if bias {
        table.push((format!("{name}.bias"), vec![outputs]));
    }
}
