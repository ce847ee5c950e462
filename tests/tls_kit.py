"""Certificates for tests."""

from __future__ import annotations

import subprocess
from pathlib import Path


def self_signed(path: Path, name: str = "IP:127.0.0.1", days: int = 2) -> Path:
    """Make a certificate that signs itself, for this host name or address, and write it there with its key behind it."""
    key = path.with_suffix(".key")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=x"]
    command += ["-days", str(days), "-addext", f"subjectAltName={name}", "-keyout", str(key), "-out", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    path.write_text(path.read_text() + key.read_text())
    return path
