"""Tests the official Python client against the server: python openai_python.py"""
import math
import os
from array import array

import openai
from server import running

KEY = "a-key"


def main():
    os.environ["GTE_API_KEYS"] = KEY
    with running() as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0)
        # The client requests base64 by default, and decodes it.
        one = client.embeddings.create(model="gte", input="How do I return a kettle?")
        plain = client.embeddings.create(model="gte", input="How do I return a kettle?", encoding_format="float")
        # The numbers in JSON are the shortest that give the same f32.
        assert array("f", one.data[0].embedding) == array("f", plain.data[0].embedding)
        assert len(one.data[0].embedding) == 384
        assert one.usage.prompt_tokens == one.usage.total_tokens == 9, one.usage
        assert math.isclose(sum(v * v for v in one.data[0].embedding), 1, abs_tol=1e-5)
        many = client.embeddings.create(model="gte", input=["a", "How do I return a kettle?", ""], user="someone")
        assert [d.index for d in many.data] == [0, 1, 2] and many.data[1].embedding == one.data[0].embedding
        # Whatever their vocabulary is.
        for ids in ([101, 2129, 102], [[101, 2129, 102], [101, 102]]):
            try:
                client.embeddings.create(model="gte", input=ids)
            except openai.UnprocessableEntityError as e:
                assert "--token-ids" in e.body["message"] and e.body["param"] == "input", e.body
            else:
                raise AssertionError("token ids were accepted")
        short = client.embeddings.create(model="gte", input="a", dimensions=64)
        assert len(short.data[0].embedding) == 64
        name = client.models.list().data[0].id
        assert client.models.retrieve(name).id == name
        for error, call in [
            (openai.NotFoundError, lambda: client.models.retrieve("thenlper/gte-large-zh")),
            (openai.UnprocessableEntityError, lambda: client.embeddings.create(model="gte", input="a", dimensions=9999)),
            (openai.UnprocessableEntityError, lambda: client.embeddings.create(model="gte", input=[])),
            (openai.AuthenticationError, lambda: client.with_options(api_key="wrong").embeddings.create(model="gte", input="a")),
        ]:
            try:
                call()
            except error as e:
                assert e.body["message"], e.body
            else:
                raise AssertionError(f"no {error.__name__}")
        assert not server.errors, server.errors
    with running("--token-ids") as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0)
        one = client.embeddings.create(model="gte", input=[101, 2129, 102]).data[0].embedding
        assert client.embeddings.create(model="gte", input=[[101, 2129, 102], [101, 102]]).data[0].embedding == one
    print("openai-python: passed")


main()
