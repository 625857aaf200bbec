"""A persistent identity key in a file."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from discord_rtc.connection.identity import EphemeralIdentity, load_identity
from discord_rtc.crypto.p256 import SigningKey
from discord_rtc.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

posix = pytest.mark.skipif(os.name != "posix", reason="there are no such permissions elsewhere")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_missing_key_is_made_once_and_stays_the_same(tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    first = load_identity(file)
    assert load_identity(str(file)) == first
    assert SigningKey.from_pem(file.read_bytes()).public == first.public
    assert load_identity(tmp_path / "other.pem") != first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["key.pem", "other.pem"]


@posix
def test_the_file_and_its_folders_are_for_the_owner_only(tmp_path: Path) -> None:
    file = tmp_path / "a" / "b" / "key.pem"
    old = os.umask(0)
    try:
        load_identity(file)
    finally:
        os.umask(old)
    assert mode(file) == 0o600
    assert mode(file.parent) == mode(file.parent.parent) == 0o700


@posix
@pytest.mark.parametrize("permissions", [0o640, 0o604, 0o660, 0o666])
def test_a_key_that_others_may_use_is_refused_with_the_remedy(
    tmp_path: Path, permissions: int
) -> None:
    file = tmp_path / "key.pem"
    load_identity(file)
    file.chmod(permissions)
    with pytest.raises(UsageError, match=f"chmod 600 {file}"):
        load_identity(file)
    file.chmod(0o600)
    load_identity(file)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"-----BEGIN PRIVATE KEY-----\n"])
def test_what_is_no_key_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "key.pem"
    file.write_bytes(content)
    file.chmod(0o600)
    with pytest.raises(UsageError, match=r"key\.pem is no identity key"):
        load_identity(file)
    assert file.read_bytes() == content


def test_a_path_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="cannot be used"):
        load_identity(tmp_path / "file" / "key.pem")
    with pytest.raises(UsageError, match="cannot be used"):
        load_identity(tmp_path)


def test_the_key_of_another_program_that_was_faster_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "key.pem"
    theirs = SigningKey.generate()
    link = os.link

    def slow(source: Path, target: Path) -> None:
        file.write_bytes(theirs.to_pem())
        file.chmod(0o600)
        link(source, target)

    monkeypatch.setattr(os, "link", slow)
    assert load_identity(file).public == theirs.public
    assert [path.name for path in tmp_path.iterdir()] == ["key.pem"]


def test_file_systems_without_hard_links_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(source: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted", str(source), None, str(target))

    monkeypatch.setattr(os, "link", refused)
    key = load_identity(tmp_path / "key.pem")
    assert load_identity(tmp_path / "key.pem") == key
    assert [path.name for path in tmp_path.iterdir()] == ["key.pem"]


def test_the_home_folder_may_be_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    load_identity("~/key.pem")
    assert (tmp_path / "key.pem").exists()


def test_nothing_of_the_key_is_shown(tmp_path: Path) -> None:
    key = load_identity(tmp_path / "key.pem")
    assert repr(key.private) not in repr(key)


@posix
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    os.mkfifo(file, 0o600)
    with pytest.raises(UsageError, match="no regular file"):
        load_identity(file)


@pytest.mark.parametrize("path", ["~nobody-of-that-name/key.pem", "a\0b"])
def test_a_path_that_means_nothing_is_an_error_of_the_caller(path: str) -> None:
    with pytest.raises(UsageError, match="cannot be used"):
        load_identity(path)


@posix
def test_a_link_is_followed_and_a_dangling_one_is_told(tmp_path: Path) -> None:
    file, link = tmp_path / "key.pem", tmp_path / "link.pem"
    link.symlink_to(file)
    with pytest.raises(UsageError, match="cannot be used"):
        load_identity(link)
    key = load_identity(file)
    assert load_identity(link) == key


def test_an_ephemeral_key_is_made_once_for_each_holder() -> None:
    one, other = EphemeralIdentity(), EphemeralIdentity()
    assert one.key() is one.key()
    assert one.key() != other.key()
    assert SigningKey.from_private(one.key().private).public == one.key().public
