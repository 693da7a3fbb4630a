//! AMX where the CPU lacks it: a signal handler that exists only in this crate's own tests
//! carries its instructions out, so no test outside can compute with it.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test whose figures are worth reading")]

use std::path::Path;

use crate::similarity::top_k;
use crate::{Embedder, Embeddings, Isa, ModelFiles, Precision};

/// How many rankings of sentences are the same on AMX as on the other instruction sets, which
/// all give the same vectors. AMX sums several products before it rounds.
#[test]
#[ignore = "emulated tiles take minutes: make check-amx"]
fn rankings_with_amx_are_those_of_other_instruction_sets() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("bundled/train/data");
    let mut texts: Vec<String> = ["service", "life", "tech", "business", "culture"]
        .iter()
        .flat_map(|domain| {
            let lines = std::fs::read_to_string(data.join(format!("{domain}.pairs.tsv"))).unwrap();
            let all: Vec<String> = lines.lines().flat_map(|line| line.split('\t').map(str::to_owned)).collect();
            all.into_iter().take(520)
        })
        .collect();
    texts.sort();
    texts.dedup();
    texts.truncate(2400);
    assert_eq!(texts.len(), 2400);
    for (precision, least) in [(Precision::F32, 1.0), (Precision::Bf16, 0.92), (Precision::Int8, 0.97)] {
        let embed = |isa| -> Embeddings {
            let builder = Embedder::from_files(ModelFiles::bundled()).precision(precision).isa(isa).threads(2);
            builder.build().unwrap().embed(&texts).unwrap()
        };
        let rankings = |vectors: &Embeddings| -> Vec<Vec<usize>> {
            let hits = top_k(vectors.view(), vectors.view(), 10).unwrap();
            hits.iter().map(|hits| hits.iter().map(|hit| hit.index).collect()).collect()
        };
        let (amx, other) = (embed(Isa::Amx), embed(Isa::Avx512));
        let (amx_rankings, other_rankings) = (rankings(&amx), rankings(&other));
        let pairs = || amx_rankings.iter().zip(&other_rankings);
        let share = |count: usize| count as f64 / texts.len() as f64;
        let same = share(pairs().filter(|(a, b)| a == b).count());
        let first = share(pairs().filter(|(a, b)| a[..2] == b[..2]).count());
        let members = pairs().map(|(a, b)| a.iter().filter(|i| b.contains(i)).count()).sum::<usize>();
        let cosine = amx.rows().zip(other.rows()).map(|(a, b)| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>());
        eprintln!(
            "{precision}, AMX beside the others: {:.2} % of top-10 lists the same in the same order, {:.2} % of \
             their members, {:.2} % of the best hits; smallest cosine {:.6}",
            100.0 * same,
            10.0 * share(members),
            100.0 * first,
            cosine.fold(1.0, f32::min)
        );
        assert!(same >= least, "{precision}: {same}");
    }
}
