"""The command line: files of texts, bad lines, interruptions, the server."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from fixtures import MODEL, run


def test_files(tmp_path, default_embedder):
    import pyarrow
    import pyarrow.csv
    import pyarrow.parquet

    # More than a piece of work. Most texts are short, because they are embedded five times.
    texts = [f"{i}" if i % 25 else f'text "{i}", 第{i}行' for i in range(5000)]
    (tmp_path / "in.txt").write_text("\n".join(texts), encoding="utf8")
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"body": t}) + "\n" for t in texts))
    table = pyarrow.table({"id": range(5000), "body": texts})
    pyarrow.csv.write_csv(table, tmp_path / "in.csv")
    pyarrow.parquet.write_table(table, tmp_path / "in.parquet")
    expected = default_embedder.embed(texts)
    for source, target in [("in.txt", "a.npy"), ("in.jsonl", "b.npy"), ("in.csv", "c.jsonl"), ("in.parquet", "d.parquet")]:
        done = run("embed", tmp_path / source, "-o", tmp_path / target, "--model", MODEL, "--column", "body")
        assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), expected)
    np.testing.assert_array_equal(np.load(tmp_path / "b.npy"), expected)
    lines = [json.loads(line) for line in (tmp_path / "c.jsonl").read_text(encoding="utf8").splitlines()]
    assert [line["text"] for line in lines] == texts
    np.testing.assert_array_equal(np.array([line["embedding"] for line in lines], np.float32), expected)
    written = pyarrow.parquet.read_table(tmp_path / "d.parquet")
    assert written["text"].to_pylist() == texts
    np.testing.assert_array_equal(np.array(written["embedding"].to_pylist(), np.float32), expected)
    assert not list(tmp_path.glob("*.parts")) and not list(tmp_path.glob("*.tmp"))

    for arguments, words in [
        (["embed", tmp_path / "in.csv", "-o", tmp_path / "x.npy", "--model", MODEL], "--column"),
        (["embed", tmp_path / "in.txt", "-o", tmp_path / "x.pdf", "--model", MODEL], ".parquet"),
        (["embed", tmp_path / "none.txt", "-o", tmp_path / "x.npy", "--model", MODEL], "none.txt"),
        (["similarity", "a", "b", "--model", tmp_path / "nowhere"], "nowhere"),
    ]:
        done = run(*arguments)
        assert done.returncode == 1 and words in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert 0.9 < float(run("similarity", "a cat", "a cat", "--model", MODEL).stdout) <= 1


def test_files_as_people_have_them(tmp_path):
    from gte.files import read_texts

    def read(name, content, column="text"):
        (tmp_path / name).write_bytes(content)
        return list(read_texts(tmp_path / name, column))

    long = "长" * 200_000
    assert read("excel.csv", f"\ufefftext,id\r\n{long},1\r\n".encode()) == [long]
    assert read("mark.txt", "\ufeff一\r\n二\n".encode()) == ["一", "二"]
    assert read("gaps.jsonl", '"一"\n\n{"text": "二"}\n'.encode()) == ["一", "二"]
    for name, content, words in [
        ("old.csv", "text\n退货\n".encode("gb18030"), "line 2 is not UTF-8.*GB18030"),
        ("old.txt", "好\n".encode() + "退货\n".encode("gb18030"), "line 2 is not UTF-8"),
        ("cut.jsonl", b'"a"\n{"text": \n', "line 2 is not JSON"),
        ("null.jsonl", b'"a"\n{"body": "b"}\n', "line 2 has no key 'text'"),
        ("none.jsonl", b'"a"\n{"text": null}\n', "line 2 is None"),
        ("deep.jsonl", b'"a"\n' + b"[" * 100_000, "line 2 is"),
        ("half.jsonl", b'"a"\n"\\ud83d"\n', r"line 2 is not UTF-8 \(the lone surrogate U\+D83D at character 0"),
        ("bytes.jsonl", b'"a"\n"\xff"\n', "line 2 is not UTF-8 .byte 0xff at character 1"),
        ("commas.csv", b"text,id\nhello, world,1\n", "line 2 has 3 fields"),
        ("short.csv", b"id,text\n1,a\n2\n", "line 3 ends before"),
        ("quote.csv", b'text\na\n"open\nb\n', "line 3 is not CSV"),
    ]:
        with pytest.raises(ValueError, match=words) as error:
            read(name, content)
        assert name in str(error.value) and "--skip-bad-lines" in str(error.value)
    with pytest.raises(ValueError, match="2 columns are named 'text'"):
        read("twice.csv", b"text,text\na,b\n")


def test_bad_lines_are_left_out_and_listed(tmp_path, embedder):
    import pyarrow
    import pyarrow.parquet

    good = [f"text {i}" for i in range(3000)]
    lines = [json.dumps(text).encode() for text in good]
    lines[2500:2500], lines[17:17] = [b'{"text": 7}'], [b"\xff\xfe", b'"\\udc00"', b"{"]
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(lines))
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", None, "b"]}), tmp_path / "in.parquet")
    command = ["embed", tmp_path / "in.jsonl", "-o", tmp_path / "out.npy", "--model", MODEL, "--precision", "f32"]
    stopped = run(*command)
    assert stopped.returncode == 1 and "in.jsonl, line 18 is not UTF-8" in stopped.stderr and "--skip-bad-lines" in stopped.stderr
    assert not list(tmp_path.glob("out.npy*")), "the line must be found before anything is written"
    done = run(*command, "--skip-bad-lines")
    assert done.returncode == 0 and "4 skipped" in done.stderr and "line 2504 is 7" in done.stderr, done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), embedder.embed(good))
    listed = [json.loads(line) for line in (tmp_path / "out.npy.skipped.jsonl").read_text().splitlines()]
    assert [bad["place"] for bad in listed] == ["line 18", "line 19", "line 20", "line 2504"] and "7" in listed[3]["reason"]
    done = run("embed", tmp_path / "in.parquet", "-o", tmp_path / "out.npy", "--model", MODEL, "--skip-bad-lines")
    assert done.returncode == 0 and "row 1 is None" in done.stderr and len(np.load(tmp_path / "out.npy")) == 2


def test_prompts_and_variables_of_the_command_line(tmp_path, embedder):
    (tmp_path / "in.txt").write_text("a\n")
    arguments = ["embed", tmp_path / "in.txt", "-o", tmp_path / "out.npy", "--precision", "f32"]
    done = run(*arguments, "--prompt", "query: ", "--model", MODEL)
    assert done.returncode == 0 and "384 dimensions, f32" in done.stderr, done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), embedder.embed(["query: a"]))
    for options, words in [(["--prompt-name", "nonsense"], "nonsense"), (["--prompt", "a", "--prompt-name", "b"], "not allowed with")]:
        done = run(*arguments, *options, "--model", MODEL)
        assert done.returncode != 0 and words in done.stderr and "Traceback" not in done.stderr
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "model").symlink_to(MODEL)
    for model, variables in [
        ("all-MiniLM", {"GTE_MODEL": "~/model", "HOME": str(tmp_path / "home"), "GTE_THREADS": "", "GTE_ISA": " ", "HF_TOKEN": ""}),
        ("bundled", {"GTE_MODEL": "", "HF_HUB_OFFLINE": "Yes", "GTE_THREADS": "1\n"}),
    ]:
        done = run(*arguments, env={**os.environ, **variables})
        assert done.returncode == 0 and ("bundled model" in done.stderr) == (model == "bundled"), done.stderr
    done = run(*arguments, "--model", MODEL, env={**os.environ, "HF_HUB_OFFLINE": "maybe"})
    assert done.returncode == 1 and "HF_HUB_OFFLINE is maybe" in done.stderr and "yes" in done.stderr


def test_a_killed_run_goes_on(tmp_path, default_embedder):
    texts = [f"text {i}" for i in range(9000)]
    source, target = tmp_path / "in.txt", tmp_path / "out.npy"
    source.write_text("\n".join(texts))
    command = [sys.executable, "-m", "gte", "embed", source, "-o", target, "--model", MODEL]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    parts = tmp_path / "out.npy.parts"
    while not list(parts.glob("*.npy")):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    done = sorted(parts.glob("*.npy"))
    assert done and not target.exists()
    before = {p: p.stat().st_mtime_ns for p in done}
    other = run("embed", source, "-o", target, "--model", MODEL, "--max-length", 50)
    assert other.returncode == 1 and "another file" in other.stderr
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    seen = dict(before)
    while process.poll() is None:
        seen |= {p: p.stat().st_mtime_ns for p in done if p.exists()}
        time.sleep(0.01)
    assert seen == before, "finished pieces were computed again"
    np.testing.assert_array_equal(np.load(target), default_embedder.embed(texts))


def test_serve():
    import urllib.request

    program = MODEL.parents[1] / "release/gte-server"
    if not program.exists():
        pytest.fail("target/release/gte-server is needed: cargo build --release")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "gte", "serve", "--host", "127.0.0.1", "--port", str(port), "--drain-delay", "0"]
    nowhere = subprocess.run(command, env={**os.environ, "PATH": ""}, capture_output=True, text=True)
    assert nowhere.returncode == 1 and "cargo install" in nowhere.stderr
    server = subprocess.Popen(command, env={**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}"}, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                info = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/info"))
                break
            except OSError:
                assert server.poll() is None and time.monotonic() < deadline
                time.sleep(0.05)
        assert info["dimension"] == 384 and "bundled" in info["note"]
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
    finally:
        server.kill()
