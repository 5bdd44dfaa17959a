from pathlib import Path

import pytest

from tests.door import Authority
from trace_proxy.errors import ConfigurationError
from trace_proxy.runtime.clients.tls import Certificates, subject_of


@pytest.mark.parametrize(
    ("subject", "shown"),
    [
        ([[("commonName", "alice")]], "CN=alice"),
        ([[("countryName", "DE")], [("commonName", "alice")]], "CN=alice,C=DE"),
        ([[("commonName", "a"), ("userId", "b")]], "CN=a+UID=b"),
        ([[("commonName", 'a,b+c"\\<>;')]], 'CN=a\\,b\\+c\\"\\\\\\<\\>\\;'),
        ([[("commonName", "#a ")]], "CN=\\#a\\ "),
        ([[("commonName", " ")]], "CN=\\ "),
        ([[("name", "alice")]], "name=alice"),
        ([[("commonName", "a\nb")]], "CN=a\ufffdb"),
        ([[("commonName", "x" * 300)]], "CN=" + "x" * 253),
        ([], ""),
    ],
)
def test_a_subject_is_one_text_as_rfc_4514_writes_it(subject: object, shown: str) -> None:
    assert subject_of({"subject": subject}) == shown


@pytest.mark.parametrize("shown", [None, {}, ""])
def test_who_has_shown_no_certificate_has_no_subject(shown: object) -> None:
    assert subject_of(shown) is None


def contents(*paths: Path) -> list[bytes]:
    return [path.read_bytes() for path in paths]


def test_what_cannot_be_used_changes_nothing(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    cert, key = authority.issue()
    _, other = authority.issue("other")
    certificates = Certificates(60, lambda: 0.0)
    certificates.take(contents(cert, key, authority.path))
    before = certificates.context
    for wrong in (
        contents(cert, other, authority.path),
        [b"", b"", b""],
        contents(cert, key, key),
    ):
        with pytest.raises(ConfigurationError, match="--tls-"):
            certificates.take(wrong)
    assert certificates.context is before
    assert len(before.get_ca_certs()) == 1


def test_authorities_from_before_are_trusted_for_the_overlap(tmp_path: Path) -> None:
    first, second = Authority(tmp_path), Authority(tmp_path, "second")
    cert, key = first.issue()
    now_s = [100.0]
    certificates = Certificates(60, lambda: now_s[0])
    certificates.take(contents(cert, key, first.path))
    certificates.take(contents(cert, key, second.path))
    trusted = [certificates.trusted]
    for now_s[0] in (159.0, 160.0):
        certificates.forget()
        trusted.append(certificates.trusted)
    assert trusted == [2, 2, 1]
