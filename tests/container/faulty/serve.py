#!/usr/bin/env python3
"""A server that scores texts, with at most one fault, which FAULT names."""

import csv
import io
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import zlib
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from pathlib import Path

FAULT = os.environ["FAULT"]
MODEL = Path("/opt/ml/model")
READS = ("application/json", "application/jsonlines", "text/csv")
LIMIT = 5_000_000 if FAULT == "limits-bodies-to-5-mb" else 200_000_000
ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"
state = {"ready": False, "code": None, "text": "", "busy": 0}


class ClientError(Exception):
    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


def stand_demands():
    if FAULT == "prints-environment":
        print(dict(os.environ), flush=True)
    if FAULT == "writes-to-root":
        Path("/faulty/cache/file").write_text("")
    if FAULT == "writes-to-model":
        (MODEL / "cache").write_text("")
    if FAULT == "needs-root" and os.getuid():
        sys.exit("not root")
    if FAULT == "takes-empty-for-set" and "SAGEMAKER_PROGRAM" in os.environ:
        runpy.run_path(os.environ["SAGEMAKER_PROGRAM"])
    if FAULT == "downloads":
        socket.create_connection((os.environ["MIRROR"], 8080), timeout=3).close()


def load():
    if FAULT == "ping-before-load":
        time.sleep(2)
    try:
        json.loads((MODEL / "model.json").read_text())
    except ValueError as error:
        if FAULT == "stays-without-model":
            return
        sys.exit(f"the model cannot be read: {error}")
    program = MODEL / "code/inference.py"
    state["code"] = runpy.run_path(str(program))["predict_fn"] if program.exists() else None
    state["ready"] = True


def predict(value):
    if state["code"]:
        state["code"](value, None)
    if not isinstance(value, dict) or not isinstance(value.get("inputs"), str):
        raise ClientError(400, 'send {"inputs": "a text"}')
    state["text"] = value["inputs"]
    if FAULT in ("mixes-answers", "predicts-one-at-a-time"):
        time.sleep(0.05)
    if FAULT == "outlives-its-worker":
        state["worker"].stdin.write(b"\n")
        state["worker"].stdin.flush()
        state["worker"].stdout.readline()
    text = state["text"] if FAULT == "mixes-answers" else value["inputs"]
    if FAULT == "fails-on-empty-text":
        text[0]
    return {
        "label": "long" if len(text) > 50 else "short",
        "score": zlib.crc32(text.encode()) / 2**32,
    }


def predict_line(line):
    try:
        return predict(json.loads(line))
    except (ValueError, ClientError) as error:
        return {"error": str(error)}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/ping":
            ready = state["ready"] or FAULT == "ping-before-load"
            ready = ready and FAULT != "never-healthy"
            self.answer(200 if ready else 503, b"\n" if FAULT == "ping-with-body" else b"")
        elif self.path == "/execution-parameters":
            strategy = "MultiRecord" if FAULT == "odd-execution-parameters" else "MULTI_RECORD"
            found = {"MaxConcurrentTransforms": 1, "BatchStrategy": strategy, "MaxPayloadInMB": 6}
            self.answer(200, json.dumps(found).encode())
        else:
            self.answer(404, b"no such route")

    def do_HEAD(self):
        self.do_GET()

    def do_POST(self):
        if self.path == "/ping" and FAULT != "ping-by-get-alone":
            self.do_GET()
        elif self.path == "/invocations" and FAULT != "has-no-invocations":
            state["busy"] += 1
            try:
                self.invoke()
            finally:
                state["busy"] -= 1
        else:
            self.answer(404, b"no such route")

    def invoke(self):
        if FAULT == "resets-when-busy" and state["busy"] > 4:
            return
        try:
            body = self.body()
            if not state["ready"]:
                raise ClientError(503, "the model is still being loaded")
            self.answer(200, self.predictions(body))
        except ClientError as error:
            self.answer(error.status, self.message(error))
        except Exception as error:
            traceback.print_exc()
            self.answer(
                400 if FAULT == "takes-own-faults-for-clients" else 500, self.message(error)
            )

    def predictions(self, body):
        default = None if FAULT == "needs-a-type" else READS[0]
        kind = self.headers.get("Content-Type", default)
        if FAULT != "charset-unparsed":
            kind = kind.partition(";")[0].strip()
        if FAULT != "types-have-case":
            kind = kind.lower()
        if kind == "application/x-npy" and FAULT == "unpickles":
            import numpy

            numpy.load(io.BytesIO(body), allow_pickle=True)
            raise ClientError(400, "arrays of numbers alone are read")
        if kind not in READS:
            raise ClientError(400 if FAULT == "400-for-unknown-types" else 415, f"send {READS}")
        accept = self.headers.get("Accept", "*/*")
        if kind == "text/csv" == accept:
            rows = [predict({"inputs": row[0]}) for row in csv.reader(body.decode().splitlines())]
            lines = [f"{row['label']},{row['score']}" for row in rows]
            return ("," if FAULT == "joins-rows" else "\n").join(lines).encode()
        if FAULT == "accept-compared-whole":
            allowed = accept in ("*/*", "application/json")
        else:
            allowed = "*/*" in accept or "application/json" in accept
        if FAULT == "refuses-any-type" and self.headers.get("Accept") == "*/*":
            allowed = False
        if not allowed and FAULT != "accept-ignored":
            raise ClientError(406, "application/json alone can be written")
        if kind == "application/jsonlines":
            found = [predict_line(line) for line in body.splitlines()]
            return ("," if FAULT == "joins-lines" else "\n").join(map(json.dumps, found)).encode()
        try:
            value = json.loads(body)
        except ValueError as error:
            raise ClientError(500 if FAULT == "500-for-broken-json" else 400, str(error)) from error
        return json.dumps(predict(value)).encode()

    def message(self, error):
        if FAULT == "answers-with-traceback":
            return "".join(traceback.format_exception(error)).encode()
        return str(error).encode() * (100 if FAULT == "long-errors" else 1)

    def body(self):
        if self.headers.get("Transfer-Encoding") == "chunked" and FAULT != "reads-no-chunks":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            return b"".join(parts)
        length = int(self.headers.get("Content-Length", 0))
        if length > LIMIT:
            raise ClientError(413, f"at most {LIMIT} bytes")
        body = self.rfile.read(length)
        if len(body) < length:
            if FAULT == "dies-of-broken-bodies":
                os._exit(1)
            raise ClientError(400, "the body breaks off")
        return body

    def answer(self, status, body):
        self.send_response(status)
        if body and FAULT != "answers-without-type":
            as_csv = self.headers.get("Accept") == "text/csv"
            good = "text/csv" if as_csv else "application/json"
            self.send_header("Content-Type", good if status == 200 else "text/plain")
        if self.headers.get(ATTRIBUTES) and FAULT != "drops-attributes":
            self.send_header(ATTRIBUTES, self.headers[ATTRIBUTES])
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if self.command != "HEAD" else b"")

    def log_request(self, code="-", size="-"):
        if (
            inference := self.headers.get("X-Amzn-SageMaker-Inference-Id")
        ) and FAULT != "logs-no-ids":
            print(f"inference id {inference}: {int(code)}", flush=True)


class Server(HTTPServer if FAULT == "predicts-one-at-a-time" else ThreadingHTTPServer):
    request_queue_size = 2 if FAULT == "accepts-late" else 512
    daemon_threads = False

    def get_request(self):
        if FAULT == "accepts-late":
            time.sleep(0.1)
        return super().get_request()

    def handle_error(self, request, client_address):
        print("a client is lost", flush=True)


def main():
    stand_demands()
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, {
        "ignores-sigterm": signal.SIG_IGN,
        "drops-requests-in-flight": lambda *_: os._exit(0),
    }.get(FAULT, lambda *_: stopped.set()))  # fmt: skip
    if FAULT != "ping-before-load":
        load()
    if FAULT == "a-model-a-process":
        copy = "import sys; model = b'1' * 100_000_000; sys.stdin.read()"
        state["workers"] = [
            subprocess.Popen([sys.executable, "-c", copy], stdin=subprocess.PIPE) for _ in range(3)
        ]
    if FAULT == "outlives-its-worker":
        state["worker"] = subprocess.Popen("cat", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    port = 8080 if FAULT == "port-is-fixed" else int(os.environ.get("SAGEMAKER_BIND_TO_PORT", 8080))
    server = Server(("0.0.0.0", port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    if FAULT == "ping-before-load":
        load()
    while not stopped.wait(0.2):
        pass
    server.shutdown()
    server.server_close()
    sys.exit(143 if FAULT == "ends-with-143" else 0)


main()
