import os

import pytest

from undye.data.listing import list_images
from undye.errors import UserError


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def listed(root):
    return list_images(root)


def test_any_depth_known_suffixes_sorted_as_posix_text(tmp_path):
    names = ["b.PNG", "a/z/y/x.JpEg", "a.jpg", "a/b.webp", "a-b/c.gif", "1.bmp", "10.tif", "2.tiff"]
    touch(tmp_path, *names, "notes.txt", "Makefile", "a/data.npz")
    assert listed(tmp_path) == sorted(names)


def test_hidden_things_are_passed_over(tmp_path):
    touch(tmp_path, "a.png", ".git/b.png", "__MACOSX/c.png", "d/._e.png", ".png")
    assert listed(tmp_path) == ["a.png"]


def test_links_are_followed_once_and_loops_end(tmp_path):
    touch(tmp_path, "root/real/a.png", "outside/b.png")
    root = tmp_path / "root"
    (root / "real/up").symlink_to(root)
    (root / "again").symlink_to(root / "real")
    (root / "out").symlink_to(tmp_path / "outside")
    (tmp_path / "outside/back").symlink_to(root)
    (root / "self.png").symlink_to(root / "self.png")
    (root / "gone.png").symlink_to(tmp_path / "gone.png")
    (root / "file.png").symlink_to(tmp_path / "outside/b.png")
    assert listed(root) == ["file.png", "gone.png", "out/b.png", "real/a.png", "self.png"]


def test_a_pipe_is_not_opened(tmp_path):
    touch(tmp_path, "a.png")
    os.mkfifo(tmp_path / "b.png")
    assert listed(tmp_path) == ["a.png"]


def test_errors(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        list_images(tmp_path / "nowhere")
    touch(tmp_path, "notes.txt")
    with pytest.raises(UserError, match="not a folder"):
        list_images(tmp_path / "notes.txt")
    with pytest.raises(UserError, match=r"no images in .*\.png .*\.tiff"):
        list_images(tmp_path)


def test_unreadable_folder(tmp_path, monkeypatch):
    touch(tmp_path, "a.png")

    def refuse(_path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("undye.data.listing.os.scandir", refuse)
    with pytest.raises(UserError, match=r"cannot read the folder .*: Permission denied"):
        list_images(tmp_path)
