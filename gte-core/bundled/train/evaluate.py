"""Measures the student on the held-out blocks: see `evaluate`."""
import numpy as np

import data


def ranks(values):
    order = np.argsort(values)
    out = np.empty(len(values))
    out[order] = np.arange(len(values))
    return out


def evaluate(embed, teacher):
    """`embed`: texts → unit rows; `teacher`: {English text: unit row}.

    zh_en: share of Chinese texts whose nearest English text, of all that are held out, is their own
    (or the same English text).

    zh_zh: share of Chinese texts with a paraphrase (a neighbouring line whose English the teacher
    finds similar, ≥ 0.8) whose nearest other Chinese text is one of their paraphrases.

    english: Spearman correlation of the student's and the teacher's cosines over pairs of English
    texts.
    """
    pairs = data.pairs(True)
    chinese, english = embed([c for c, _ in pairs]), embed([e for _, e in pairs])
    target = np.stack([teacher[e] for _, e in pairs])
    best = (chinese @ english.T).argmax(1)
    zh_en = np.mean([pairs[b][1] == pairs[i][1] for i, b in enumerate(best)])

    similar = (target[:-1] * target[1:]).sum(1) >= 0.8
    group, groups = 0, [0]
    for joined in similar:
        group += not joined
        groups.append(group)
    groups = np.array(groups)
    has = [i for i in range(len(pairs)) if (groups == groups[i]).sum() > 1]
    scores = chinese @ chinese.T
    np.fill_diagonal(scores, -2)
    zh_zh = np.mean(groups[scores[has].argmax(1)] == groups[has])

    upper = np.triu_indices(len(pairs), 1)
    found, wanted = (english @ english.T)[upper], (target @ target.T)[upper]
    rho = np.corrcoef(ranks(found), ranks(wanted))[0, 1]
    return {"zh_en": round(float(zh_en), 4), "of": len(pairs), "zh_zh": round(float(zh_zh), 4), "zh_zh_of": len(has), "english": round(float(rho), 4)}
