#!/usr/bin/env python3
"""Start nginx and gunicorn; when one of them ends, or at SIGTERM, end both."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys


def main():
    workers = os.environ.get("MODEL_SERVER_WORKERS", str(multiprocessing.cpu_count()))
    nginx = subprocess.Popen(["nginx", "-c", "/opt/program/nginx.conf"])
    gunicorn = subprocess.Popen(
        [
            "gunicorn",
            "--timeout",
            "60",
            "--bind",
            "unix:/tmp/gunicorn.sock",
            "-w",
            workers,
            "wsgi:app",
        ]
    )

    def end(*_):
        for process, number in ((nginx, signal.SIGQUIT), (gunicorn, signal.SIGTERM)):
            with contextlib.suppress(OSError):
                os.kill(process.pid, number)
        sys.exit(0)

    signal.signal(signal.SIGTERM, end)
    while os.wait()[0] not in (nginx.pid, gunicorn.pid):
        pass
    end()


main()
