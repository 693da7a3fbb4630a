"""The tutorial's way to serve a model, with FastAPI and sentence-transformers.

python tutorial_server.py MODEL_DIR PORT THREADS
"""
import sys

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer

model_dir, port, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(threads)
model = SentenceTransformer(model_dir, device="cpu")
app = FastAPI()


class Request(BaseModel):
    text: str


@app.get("/readyz")
def ready():
    return "ready"


@app.post("/v1/embedding")
def embedding(request: Request):
    vector = model.encode(request.text, normalize_embeddings=True)
    return {"embedding": vector.tolist(), "dimension": len(vector)}


uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")
