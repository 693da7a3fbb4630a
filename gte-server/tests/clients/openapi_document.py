"""Checks the OpenAPI document for what would break code generators, readers of /docs and the
fuzzer: python openapi_document.py
"""
import re

import httpx
from families import serving

# Requests that share a type on purpose.
SHARED = {"EmbedAllRequest": {"/embed_all", "/embed_sparse"}, "CohereEmbedRequest": {"/v1/embed", "/v2/embed"}}
# Responses when a model is loading, busy, for another task, or missing.
REFUSALS = {"404", "413", "422", "424", "429", "503"}


def references(value):
    if isinstance(value, dict):
        yield from [value["$ref"]] if "$ref" in value else []
        value = list(value.values())
    for part in value if isinstance(value, list) else []:
        yield from references(part)


def main():
    with serving("bge-m3", "xlmr-reranker") as server:
        document = httpx.get(f"{server.url}/openapi.json").json()
        schemas, operations = document["components"]["schemas"], []
        for path, item in document["paths"].items():
            operations += [(path, method, operation) for method, operation in item.items()]
        ids = [operation["operationId"] for _, _, operation in operations]
        assert len(ids) == len(set(ids)), f"two operations have one name: {sorted(ids)}"
        for reference in references(document):
            assert reference.removeprefix("#/components/schemas/") in schemas, reference
        # Two types with the same name would become one schema.
        users = {}
        for path, _, operation in operations:
            for reference in references(operation.get("requestBody", {})):
                users.setdefault(reference.rpartition("/")[2], set()).add(path)
        for name, paths in users.items():
            assert len(paths) == 1 or SHARED.get(name) == paths, f"{name} is the request of {paths}"
        for name, schema in schemas.items():
            for field, kind in schema.get("properties", {}).items():
                described = "description" in kind or "$ref" in kind or any("$ref" in one for one in kind.get("oneOf", []))
                assert described, f"{name}.{field} is not described"
        declared = [tag["name"] for tag in document["tags"]]
        for path, method, operation in operations:
            assert set(operation["tags"]) <= set(declared), (path, operation["tags"])
            assert operation.get("summary") or operation.get("description"), f"{path} is not described"
            codes = operation["responses"].keys()
            if method == "post":
                assert codes >= REFUSALS, f"{path} does not document {REFUSALS - codes}"
            if method == "post":
                # The required fields must be those that the server reports as missing in an empty
                # request.
                schema = schemas[next(iter(references(operation["requestBody"]))).rpartition("/")[2]]
                empty = httpx.post(server.url + path, json={})
                assert empty.status_code == 422, (path, empty.status_code)
                for field in schema.get("required", []):
                    assert re.search(r"\w+: the field is missing|expected", empty.text), (path, field, empty.text)
        for tag in declared:
            assert tag == "jobs" or any(tag in operation["tags"] for _, _, operation in operations), f"nothing is under {tag}"
        # Whatever is wrong with a path or a query string, the response is JSON.
        for path, status in [("/info?model=a&model=b", 422), ("/v1/models/%ff", 404), ("/info?model=nonsense", 404), ("/nothing", 404)]:
            answer = httpx.get(server.url + path)
            assert answer.status_code == status and answer.headers["content-type"] == "application/json", (path, answer.status_code, answer.text)
            assert answer.json()["error"], path
        page = httpx.get(f"{server.url}/docs/")
        assert page.status_code == 200 and "swagger" in page.text
    print(f"OpenAPI document: passed, {len(operations)} operations")


if __name__ == "__main__":
    main()
