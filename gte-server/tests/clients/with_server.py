"""Runs a command while a server runs: python with_server.py COMMAND…, in which URL is replaced by its address."""
import subprocess
import sys

from server import running

with running() as server:
    command = [part.replace("URL", server.url) for part in sys.argv[1:]]
    status = subprocess.run(command).returncode
    assert server.process.poll() is None, "the server died"
    assert not [line for line in server.errors if "panicked" in line or '"level":"ERROR"' in line], server.errors
    assert server.stop() == 0, "the server did not end well"
sys.exit(status)
