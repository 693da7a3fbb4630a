"""Stores dense and sparse vectors of one response in Milvus, and searches by each: python
milvus_store.py
"""
import tempfile

from families import Client, serving
from pymilvus import DataType, MilvusClient

TEXTS = ["How do I return a kettle?", "怎么退货？"] + ["holiday economy " * i for i in range(1, 8)]


def main():
    with serving("bge-m3", "xlmr-reranker") as server, tempfile.TemporaryDirectory() as folder:
        made = Client(server.url).post("/v1/outputs", model="bge-m3", input=TEXTS, outputs=["dense", "sparse"])["data"]
        # Milvus refuses sparse vectors without any weight, and the tiny model gives some.
        made = [item for item in made if item["sparse"]["indices"]]
        assert len(made) > 3, "the texts have no weights"
        sparse = [dict(zip(item["sparse"]["indices"], item["sparse"]["values"])) for item in made]
        store = MilvusClient(f"{folder}/store.db")
        schema, index = store.create_schema(auto_id=False), store.prepare_index_params()
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field("dense", DataType.FLOAT_VECTOR, dim=32)
        schema.add_field("sparse", DataType.SPARSE_FLOAT_VECTOR)
        index.add_index("dense", index_type="FLAT", metric_type="IP")
        index.add_index("sparse", index_type="SPARSE_INVERTED_INDEX", metric_type="IP")
        store.create_collection("texts", schema=schema, index_params=index)
        store.insert("texts", [{"id": item["index"], "dense": item["dense"], "sparse": weights} for item, weights in zip(made, sparse)])
        for item, weights in zip(made, sparse):
            best = store.search("texts", data=[item["dense"]], anns_field="dense", limit=1)[0][0]
            assert abs(best["distance"] - 1) < 1e-5, best
            best = store.search("texts", data=[weights], anns_field="sparse", limit=1)[0][0]
            expected = max(sum(weights[key] * other.get(key, 0) for key in weights) for other in sparse)
            assert abs(best["distance"] - expected) < 1e-5, (best, expected)
        store.close()
    print("milvus: passed")


main()
