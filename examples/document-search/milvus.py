"""Search a folder of documents with Milvus Lite: python milvus.py FOLDER QUESTION

Needs gte (pip install ./gte-py) and milvus-lite. The index, FOLDER/.milvus.db, follows the folder.
"""
import hashlib
import html
import json
import re
import sys
from pathlib import Path

import gte
from pymilvus import MilvusClient


def text_of(path):
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError:
        text = path.read_text("gb18030", errors="replace")
    if path.suffix == ".html":
        text = html.unescape(re.sub(r"(?s)<(script|style|head|nav).*?</\1>|<[^>]+>", "\n", text))
    return re.sub(r"\n\s*\n+", "\n\n", text).strip()


def pieces_of(text, most=160):
    """Puts sentences and lines together to pieces of at most `most` characters."""
    pieces = [""]
    for sentence in re.findall(r"[^。！？\n]*[。！？\n]?", text):
        if len(pieces[-1]) + len(sentence) > most:
            pieces.append("")
        pieces[-1] += sentence
    return [piece.strip() for piece in pieces if piece.strip()]


def refresh(store, embedder, folder):
    if not store.has_collection("pieces"):
        # Beside the vector, a row has the fields that it is given.
        store.create_collection("pieces", dimension=embedder.dim, metric_type="IP", auto_id=True)
    store.load_collection("pieces")
    files = {str(p.relative_to(folder)): p for p in folder.rglob("*") if p.suffix in {".txt", ".md", ".html"}}
    now = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    rows = store.query_iterator("pieces", filter="id >= 0", output_fields=["path", "hash"])
    before = {row["path"]: row["hash"] for batch in iter(rows.next, []) for row in batch}
    for name in before.keys() - {name for name in now if now[name] == before.get(name)}:
        store.delete("pieces", filter=f"path == {json.dumps(name, ensure_ascii=False)}")
    for name in now.keys() - {name for name in before if now.get(name) == before[name]}:
        pieces = pieces_of(text_of(files[name])) or [""]
        vectors = embedder.embed([f"{Path(name).stem}\n{piece}" for piece in pieces])
        rows = zip(pieces, vectors.tolist())
        store.insert("pieces", [{"path": name, "hash": now[name], "text": text, "vector": row} for text, row in rows])


if __name__ == "__main__":
    folder, question = Path(sys.argv[1]), sys.argv[2]
    store, embedder = MilvusClient(str(folder / ".milvus.db")), gte.Embedder.bundled()
    refresh(store, embedder, folder)
    for hit in store.search("pieces", data=embedder.embed([question]), limit=5, output_fields=["path", "text"])[0]:
        print(f"{hit['distance']:.3f} {hit['entity']['path']}: {hit['entity']['text']}\n")
    store.close()
