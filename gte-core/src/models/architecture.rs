//! `Architecture`: a transformer encoder as values. `encoder.rs` computes any of them, and the file
//! of each family builds one from a `config.json`.

use super::{Family, Pooling};
use crate::kernels::{Activation, Mask};

/// What a model computes. Sizes are in values, lengths in tokens.
#[derive(Clone)]
pub(crate) struct Architecture {
    pub(crate) family: &'static Family,
    /// Width of a hidden state.
    pub(crate) hidden: usize,
    /// Number of tokens in the vocabulary.
    pub(crate) vocab: usize,
    /// Length of the longest text that the positions allow.
    pub(crate) max_tokens: usize,
    /// The number of rows in a table of learned positions, and the rule for the row of a token.
    pub(crate) positions: Option<(usize, PositionRule)>,
    /// Number of rows in the token type table; 0 without one.
    pub(crate) token_types: usize,
    /// Number of rows in ERNIE's table of tasks, whose first row is added to every token; 0 without
    /// one.
    pub(crate) task_types: usize,
    /// Whether the sum of the embeddings is normalized.
    pub(crate) embedding_norm: bool,
    pub(crate) norm: NormSpec,
    pub(crate) attention: AttentionSpec,
    pub(crate) mlp: MlpSpec,
    /// What differs between layers, one entry per layer.
    pub(crate) layers: Vec<LayerSpec>,
    pub(crate) task: Task,
}

/// The row of the position table that a token uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PositionRule {
    /// The token's index in the text, from 0.
    Index,
    /// The pad id plus the number of tokens up to this one that are not the pad token, including
    /// itself. A pad token uses the row of the pad id (`create_position_ids_from_input_ids` in
    /// transformers' `modeling_roberta.py`).
    AfterPad(u32),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct NormSpec {
    pub(crate) kind: NormKind,
    pub(crate) eps: f32,
    pub(crate) bias: bool,
    pub(crate) place: NormPlace,
    /// Whether the first layer normalizes the input of its attention. (ModernBERT's does not,
    /// because the embedding is normalized.)
    pub(crate) first_attention: bool,
    /// Whether the last hidden state is normalized once more.
    pub(crate) at_end: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NormKind {
    /// Ba et al. 2016, <https://arxiv.org/abs/1607.06450>.
    Layer,
    /// Zhang, Sennrich 2019, <https://arxiv.org/abs/1910.07467>.
    Rms,
}

/// Where a block's norm is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NormPlace {
    /// x ← norm(x + block(x))
    After,
    /// x ← x + block(norm(x))
    Before,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AttentionSpec {
    /// Number of query heads.
    pub(crate) heads: usize,
    /// Number of key and value heads, a divisor of `heads`: each is shared by `heads / kv_heads`
    /// query heads.
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    /// Whether each head of queries and keys is RMS-normalized.
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

/// Whether the output of the first linear layer has two halves that are multiplied (Shazeer 2020,
/// <https://arxiv.org/abs/2002.05202>).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    /// No halves: down(activation(up(x))).
    None,
    /// The activation applies to the first half.
    First,
    /// The activation applies to the second half.
    Second,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct LayerSpec {
    pub(crate) mask: Mask,
    pub(crate) rope: Option<RopeSpec>,
}

/// Rotary positions (Su et al. 2021, <https://arxiv.org/abs/2104.09864>): pair i of d / 2 is
/// rotated by position · theta^(−2i / d) / divisor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct RopeSpec {
    pub(crate) theta: f64,
    pub(crate) divisor: f64,
}

impl RopeSpec {
    /// The angle per position by which pair `i` of a head with `d` values is rotated.
    pub(crate) fn frequency(&self, i: usize, d: usize) -> f64 {
        self.theta.powf(-((2 * i) as f64) / d as f64) / self.divisor
    }
}

/// What the files compute from the hidden states.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Task {
    /// Vectors. `sparse`: whether the files also have a weight per token.
    Embed { sparse: bool },
    /// Scores of one text or a pair of texts.
    Classify(ClassifierSpec),
    /// A language model: vectors, or the score of a yes, depending on the modules. `tied`: the
    /// output layer is the table of word embeddings.
    Language { tied: bool },
}

/// A classifier on a pooled hidden state: out(norm(activation(dense(x)))).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct ClassifierSpec {
    pub(crate) labels: usize,
    pub(crate) pooling: Pooling,
    /// The activation of the layer before the last one, and whether it has a bias.
    pub(crate) dense: Option<(HeadActivation, bool)>,
    pub(crate) norm: bool,
    pub(crate) out_bias: bool,
    /// Last-token pooling ignores tokens with this id at the end of a text.
    pub(crate) pad: Option<u32>,
}

/// Activations of the small layers after pooling.
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

/// The names of a family's tensors, without the prefix of an enclosing model and without `.weight`
/// and `.bias`. A name that a family does not have is empty.
pub(crate) struct Names {
    pub(crate) words: &'static str,
    pub(crate) positions: &'static str,
    pub(crate) types: &'static str,
    pub(crate) tasks: &'static str,
    pub(crate) embedding_norm: &'static str,
    /// The prefix before the number of a layer.
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
    /// Prefixes of further tensors in checkpoints, on which no result depends.
    pub(crate) harmless: &'static [&'static str],
}

/// A required tensor of a checkpoint, with its shape.
pub(crate) type TensorSpec = (String, Vec<usize>);

impl Names {
    /// A part of layer `layer`.
    pub(crate) fn of(&self, layer: usize, part: &str) -> String {
        format!("{}{layer}.{part}", self.layer)
    }
}

impl Architecture {
    /// Whether a token only attends to the tokens before it, in every layer.
    pub(crate) fn causal(&self) -> bool {
        self.layers.iter().all(|layer| layer.mask == Mask::Causal)
    }

    /// The spelling of names in a checkpoint: the first one for which the checkpoint `has` a tensor
    /// of its layers.
    pub(crate) fn spelling(&self, has: impl Fn(&str) -> bool) -> &'static Names {
        let names = self.family.names;
        let used = |names: &&Names| has(&format!("{}.weight", names.of(0, names.qkv[0])));
        names.iter().find(used).unwrap_or(&names[0])
    }

    /// Every tensor of the model, by its name in `names`, with its shape.
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
        if self.task_types > 0 {
            matrix(names.tasks, self.task_types);
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
