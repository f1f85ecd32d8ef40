"""Certificates for tests, made by openssl."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
_NAMES = "subjectAltName=DNS:localhost,IP:127.0.0.1\n"


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key."""

    cert: Path
    key: Path


class Authority:
    """Signs certificates, each for a common name."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder = folder
        self.name = name
        self.cert, self._key = folder / f"{name}.pem", folder / f"{name}.key"
        subject = ("-subj", f"/CN={name}", "-days", "2")
        openssl("req", "-x509", *_NEW_KEY, *subject, "-keyout", self._key, "-out", self.cert)

    def sign(self, common_name: str) -> Pair:
        stem = self._folder / f"{self.name}-{common_name or 'nobody'}"
        pair = Pair(stem.with_suffix(".pem"), stem.with_suffix(".key"))
        request, names = stem.with_suffix(".csr"), stem.with_suffix(".ext")
        names.write_text(_NAMES)
        subject = f"/CN={common_name}" if common_name else "/O=nobody"
        openssl("req", *_NEW_KEY, "-subj", subject, "-keyout", pair.key, "-out", request)
        signer = ("-CA", self.cert, "-CAkey", self._key, "-CAcreateserial", "-days", "2")
        openssl("x509", "-req", "-in", request, *signer, "-extfile", names, "-out", pair.cert)
        return pair


def openssl(*arguments: object) -> None:
    subprocess.run(
        ["openssl", *(str(argument) for argument in arguments)], check=True, capture_output=True
    )
