"""The everyday file tools, on every kind of store."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from tools.bench import KINDS, Bench

pytestmark = pytest.mark.parametrize("site", KINDS, indirect=True, scope="session")

A_TIME = 1_234_567_890


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of ordinary files: empty, small, large, executable, oddly named; all of one old time."""
    root = tmp_path_factory.mktemp("tree") / "tree"
    files = {
        "empty": b"",
        "text.txt": b"one\ntwo\nthree\n",
        "with a blank & more": b"blank",
        "größe": "größe\n".encode(),
        "deep/er/and/deeper/leaf": b"leaf",
        "deep/large.bin": bytes(range(256)) * 5_000,
        "run.sh": b"#!/bin/sh\necho it ran\n",
    }
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (root / "run.sh").chmod(0o750)
    (root / "deep").chmod(0o700)
    (root / "nothing in it").mkdir()
    for directory, _, names in os.walk(root, topdown=False):
        for name in names:
            os.utime(Path(directory) / name, (A_TIME, A_TIME))
        os.utime(directory, (A_TIME, A_TIME))
    return root


# -- copying, moving, removing ---------------------------------------------------------------------


def test_cp_r_copies_in_within_and_out(bench: Bench, tree: Path, tmp_path: Path) -> None:
    bench.sh('cp -r "$tree" a; cp -r a b; cp -r b "$out"/c', tree=tree, out=tmp_path)
    bench.sh('diff -r "$tree" a; diff -r a b; diff -r "$tree" "$out"/c', tree=tree, out=tmp_path)


def test_cp_r_copies_from_one_mount_to_another_and_back(bench: Bench, other: Bench, tree: Path) -> None:
    bench.sh('cp -r "$tree" a; cp -r a "$other"/b; cp -r "$other"/b c', tree=tree, other=other.dir)
    bench.sh('diff -r "$tree" "$other"/b; diff -r "$tree" c', tree=tree, other=other.dir)


def test_cp_p_keeps_modes_and_times(bench: Bench, tree: Path) -> None:
    told = bench.sh("cp -p \"$tree\"/run.sh a; cp -p a b; stat -c '%a %Y' a b; ./b", tree=tree)
    assert told == f"750 {A_TIME}\n750 {A_TIME}\nit ran\n"


def test_cp_a_keeps_a_whole_tree(bench: Bench, tree: Path) -> None:
    describe = r"""
        cd "$1"
        find . -type f -printf '%P %m %s %Ts\n' | sort
        find . -type d -printf '%P %m %Ts\n' | sort
    """
    expected = bench.sh(f'set -- "$tree"; {describe}', tree=tree)
    assert f"run.sh 750 22 {A_TIME}\n" in expected
    assert bench.sh(f'cp -a "$tree" a; set -- a; {describe}', tree=tree) == expected


def test_mv_moves_files_and_directories(bench: Bench, tree: Path) -> None:
    bench.sh('cp -r "$tree" a; mv a b; test ! -e a; diff -r "$tree" b', tree=tree)
    assert bench.sh("mkdir c; mv b/text.txt c/; mv b/deep c; ls c; ls b/text.txt b/deep || true") == (
        "deep\ntext.txt\n"
    )
    assert bench.sh("echo new > new; mv new c/text.txt; test ! -e new; cat c/text.txt") == "new\n"
    assert bench.sh("mv -n c/text.txt b/run.sh 2>&1 || true; head -1 b/run.sh") == "#!/bin/sh\n"


def test_mv_moves_into_a_mount_and_out_of_it(bench: Bench, tree: Path, tmp_path: Path) -> None:
    bench.sh('cp -r "$tree" "$out"/a; mv "$out"/a b; test ! -e "$out"/a', tree=tree, out=tmp_path)
    bench.sh('diff -r "$tree" b; mv b "$out"/c; test ! -e b', tree=tree, out=tmp_path)
    bench.sh('diff -r "$tree" "$out"/c', tree=tree, out=tmp_path)


def test_rm_r_removes_everything(bench: Bench, tree: Path) -> None:
    bench.sh('cp -r "$tree" a; cp -r "$tree" b; rm -r a; diff -r "$tree" b', tree=tree)
    assert bench.sh("ls") == "b\n"
    assert "No such file" in bench.fails("cat a/text.txt")


# -- rsync and tar ---------------------------------------------------------------------------------


def test_rsync_a_transfers_nothing_the_second_time(bench: Bench, tree: Path) -> None:
    command = 'rsync -a --itemize-changes "$tree"/ a/'
    assert ">f+++++++++ run.sh" in bench.sh(command, tree=tree)
    bench.sh('diff -r "$tree" a', tree=tree)
    assert bench.sh(command, tree=tree) == ""


def test_rsync_a_transfers_what_changed_and_deletes_what_went(
    bench: Bench, tree: Path, tmp_path: Path
) -> None:
    changing = tmp_path / "changing"
    bench.sh('cp -a "$tree" "$changing"; rsync -a "$changing"/ to/', tree=tree, changing=changing)
    (changing / "text.txt").write_text("changed")
    (changing / "empty").unlink()
    told = bench.sh('rsync -a --delete --itemize-changes "$changing"/ to/', changing=changing)
    files = [line for line in told.splitlines() if not line.startswith(".d")]
    assert sorted(files) == ["*deleting   empty", ">f.st...... text.txt"]
    bench.sh('diff -r "$changing" to', changing=changing)


def test_rsync_inplace_rewrites_a_part(bench: Bench, tmp_path: Path) -> None:
    source = tmp_path / "large"
    source.write_bytes(bytes(range(256)) * 8_000)
    bench.sh('rsync --inplace --no-whole-file "$source" .', source=source)
    with source.open("r+b") as file:
        file.seek(700_000)
        file.write(b"changed")
    bench.sh('rsync --inplace --no-whole-file -I "$source" .; cmp "$source" large', source=source)


def test_tar_packs_and_unpacks_with_modes_and_times(bench: Bench, tree: Path) -> None:
    bench.sh('tar -C "$tree"/.. -cf t.tar tree; tar -xpf t.tar; diff -r "$tree" tree', tree=tree)
    assert bench.sh("stat -c '%a %Y' tree/run.sh tree/deep") == f"750 {A_TIME}\n700 {A_TIME}\n"
    assert bench.sh("tar --compare -f t.tar") == ""


def test_tar_of_a_mount_unpacks_elsewhere(bench: Bench, tree: Path, tmp_path: Path) -> None:
    bench.sh('cp -r "$tree" a; tar -czf - a | tar -C "$out" -xzf -', tree=tree, out=tmp_path)
    bench.sh('diff -r "$tree" "$out"/a', tree=tree, out=tmp_path)


def test_tar_s_sees_the_data_of_sparse_and_of_full_files(bench: Bench, tmp_path: Path) -> None:
    bench.sh("head -c 300000 /dev/urandom > full; truncate -s 3M holes; echo end >> holes")
    bench.sh('tar -Scf t.tar full holes; tar -C "$out" -xf t.tar', out=tmp_path)
    bench.sh('cmp full "$out"/full; cmp holes "$out"/holes', out=tmp_path)


# -- editors ---------------------------------------------------------------------------------------


def test_sed_i_edits_in_place(bench: Bench) -> None:
    bench.sh(r"printf 'one\ntwo\n' > a; chmod 640 a; sed -i s/two/three/ a; sed -i.bak s/one/four/ a")
    assert bench.sh("paste -sd, a a.bak; stat -c %a a; ls") == "four,three\none,three\n640\na\na.bak\n"


@pytest.mark.parametrize("backupcopy", ["no", "yes"])
def test_vim_saves_with_a_backup(bench: Bench, backupcopy: str) -> None:
    """With ``backupcopy=no`` vim renames the old file and writes a new one; with ``yes`` it rewrites it."""
    options = f"backup writebackup backupcopy={backupcopy} backupdir=. backupskip= directory=. swapfile fsync"
    bench.sh(
        r"""
        printf 'one\ntwo\n' > a; chmod 640 a
        vim.tiny -es -u NONE -c "set $options" -c '%s/two/three/' -c wq a </dev/null
        """,
        options=options,
    )
    assert bench.sh("paste -sd, a a~; stat -c %a a; ls -A") == "one,three\none,two\n640\na\na~\n"


# -- git and sqlite --------------------------------------------------------------------------------


def test_git_commits_and_clones(bench: Bench, tree: Path, tmp_path: Path) -> None:
    bench.sh(
        """
        cp -r "$tree" work; cd work
        git init -q -b main; git add .; git commit -qm first
        test -z "$(git status --porcelain)"
        echo more >> text.txt; git commit -qam second; git gc -q
        """,
        tree=tree,
        timeout=120,
    )
    assert bench.sh("cd work; git fsck --strict; git log --format=%s; git status --porcelain") == (
        "second\nfirst\n"
    )
    # The two names of a link have inode numbers of their own here, which git would not believe.
    for how, clone in (("--no-hardlinks", bench.dir / "clone"), ("--quiet", tmp_path / "clone")):
        bench.sh('git clone --quiet $how work "$clone"', how=how, clone=clone, timeout=120)
        bench.sh('diff -r -x .git -x "nothing in it" work "$clone"', clone=clone)
        assert bench.sh('git -C "$clone" status --porcelain', clone=clone) == ""


@pytest.mark.parametrize("mode", ["delete", "truncate", "persist", "memory"])
def test_sqlite_writes_and_reads_back(bench: Bench, mode: str) -> None:
    statements = f"""
        PRAGMA journal_mode={mode};
        CREATE TABLE t (i INTEGER PRIMARY KEY, x TEXT);
        INSERT INTO t SELECT value, hex(randomblob(50)) FROM generate_series(1, 2000);
        BEGIN; DELETE FROM t WHERE i % 3 = 0; ROLLBACK;
        BEGIN; UPDATE t SET x = 'seven' WHERE i = 7; DELETE FROM t WHERE i > 1000; COMMIT;
    """
    assert bench.sh('sqlite3 -bail a.db "$statements"', statements=statements) == f"{mode}\n"
    query = "PRAGMA integrity_check; SELECT count(*), max(i) FROM t; SELECT x FROM t WHERE i = 7"
    assert bench.sh('sqlite3 a.db "$query"', query=query) == "ok\n1000|1000\nseven\n"
    assert bench.sh('sqlite3 a.db "VACUUM; $query"', query=query) == "ok\n1000|1000\nseven\n"


def test_sqlite_with_a_write_ahead_log(bench: Bench) -> None:
    statements = "PRAGMA journal_mode=wal; CREATE TABLE t (i); INSERT INTO t VALUES (7), (8)"
    assert bench.sh('sqlite3 -bail a.db "$statements"', statements=statements) == "wal\n"
    assert bench.sh('sqlite3 a.db "PRAGMA integrity_check; SELECT sum(i) FROM t"') == "ok\n15\n"


# -- small tools -----------------------------------------------------------------------------------


def test_dd_writes_in_the_middle_at_the_end_and_past_it(bench: Bench) -> None:
    bench.sh(
        """
        dd if=/dev/zero of=a bs=64k count=4 status=none
        printf middle | dd of=a bs=1 seek=100000 conv=notrunc,fsync status=none
        printf end | dd of=a oflag=append conv=notrunc status=none
        printf far | dd of=a bs=1 seek=500000 conv=notrunc status=none
        """
    )
    expected = bytearray(500_003)
    expected[100_000:100_006] = b"middle"
    expected[262_144:262_147] = b"end"
    expected[500_000:] = b"far"
    assert bench.sh("sha256sum < a").split()[0] == hashlib.sha256(expected).hexdigest()
    assert bench.sh("dd if=a bs=3 skip=500000 iflag=skip_bytes status=none") == "far"


def test_dd_with_direct_io(bench: Bench) -> None:
    bench.sh("head -c 3M /dev/urandom > a; dd if=a of=b bs=1M iflag=direct oflag=direct status=none; cmp a b")


def test_find_ls_and_du_describe_a_tree(bench: Bench, tree: Path) -> None:
    bench.sh('cp -r "$tree" a', tree=tree)
    lines = bench.sh('find "$tree" -ls | wc -l', tree=tree)
    assert bench.sh("find a -ls | wc -l") == lines
    assert bench.sh("find a -name large.bin -size +1000k -newermt 2020-01-01") == "a/deep/large.bin\n"
    total, *entries = bench.sh("ls -lA a").splitlines()
    assert total.startswith("total ")
    assert sorted(line[0] for line in entries) == ["-"] * 5 + ["d"] * 2
    assert bench.sh("ls -l a/deep/large.bin").split()[4] == "1280000"
    for apparent_or_used in ("-b", "-B1"):
        assert 1_280_000 <= int(bench.sh(f"du -s {apparent_or_used} a").split()[0]) < 1_400_000


def test_df_describes_the_mount(bench: Bench) -> None:
    size, available, target = bench.sh("df -B1 --output=size,avail,target . | tail -1").split()
    assert 0 < int(available) <= int(size)
    assert target == str(bench.mount.path)


def test_checksums_agree_with_the_originals(bench: Bench, tree: Path, tmp_path: Path) -> None:
    sums = tmp_path / "sums"
    bench.sh('cd "$tree"; find . -type f -print0 | xargs -0 md5sum > "$sums"', tree=tree, sums=sums)
    assert bench.sh('cp -r "$tree"/. .; md5sum --quiet -c "$sums"', tree=tree, sums=sums) == ""
    bench.sh("printf x >> deep/large.bin")
    assert "./deep/large.bin: FAILED" in bench.fails('md5sum --quiet -c "$sums"', sums=sums)


def test_zip_and_unzip(bench: Bench, tree: Path) -> None:
    bench.sh(
        """
        cp -r "$tree" a; zip -qr a.zip a; unzip -tq a.zip
        zip -q a.zip -d a/empty; rm -r a; unzip -q a.zip
        test ! -e a/empty; touch a/empty; diff -r "$tree" a
        """,
        tree=tree,
    )


def test_gzip_replaces_a_file(bench: Bench) -> None:
    bench.sh("seq 100000 > a; cp a b; gzip a; test ! -e a; gzip -t a.gz; gunzip a.gz; cmp a b")
    assert bench.sh("ls") == "a\nb\n"


def test_sort_o_writes_over_its_input(bench: Bench) -> None:
    assert bench.sh(r"printf '3\n1\n2\n' > a; sort -n -o a a; paste -sd, a") == "1,2,3\n"
    assert bench.sh("split -l 1 a part.; tail -qn1 part.*; ls") == "1\n2\n3\na\npart.aa\npart.ab\npart.ac\n"


def test_mktemp_makes_private_files_and_directories(bench: Bench) -> None:
    told = bench.sh(
        """
        file=$(mktemp -p . name.XXXXXX); directory=$(mktemp -d -p .)
        echo x > "$file"; stat -c '%a %s' "$file"; stat -c %a "$directory"
        """
    )
    assert told == "600 2\n700\n"


def test_touch_sets_times(bench: Bench) -> None:
    told = bench.sh(f"touch -d @{A_TIME} a; touch -r a b; stat -c %Y a b; echo x > c; stat -c %Y a")
    assert told == f"{A_TIME}\n" * 3
    bench.sh("test c -nt a; touch a; test a -nt b; test ! b -nt a")


def test_ln_makes_a_second_name(bench: Bench) -> None:
    assert bench.sh("echo one > a; ln a b; cat b; rm a; cat b; ls") == "one\none\nb\n"
    assert "File exists" in bench.fails("echo x > c; ln c b")


def test_ln_s_makes_a_link_where_the_store_can_keep_it(bench: Bench) -> None:
    if bench.kind == "local":
        assert bench.sh("echo one > a; ln -s a b; readlink b; cat b; test -L b") == "a\none\n"
    else:
        assert "Operation not permitted" in bench.fails("echo one > a; ln -s a b")
        assert bench.sh("ls") == "a\n"


def test_getfattr_shows_what_zarr_knows(bench: Bench) -> None:
    bench.python(
        """
        import zarr
        zarr.create_array('x', shape=(6, 4), chunks=(3, 2), dtype='f4', compressors=None)[:] = 1
        """
    )
    array, chunk = bench.sh("getfattr -d x x/c/0/0").strip().split("\n\n")
    assert "# file: x\n" in array
    assert 'user.zarr.shape="[6, 4]"' in array
    assert 'user.zarr.chunks="[3, 2]"' in array
    assert 'user.zarr.dtype="float32"' in array
    assert f'user.zarrmount.key="{bench.dir.name}/x/c/0/0"' in chunk
    assert bench.sh("getfattr --only-values -n user.zarr.zarr_format x") == "3"
    assert "not supported" in bench.fails("setfattr -n user.mine -v 1 x/zarr.json")


def test_shell_redirections(bench: Bench) -> None:
    assert bench.sh("for i in $(seq 50); do echo line $i >> log; done; wc -l < log; tail -1 log") == (
        "50\nline 50\n"
    )
    assert bench.sh(": > log; cat log; exec 3<>c; echo hi >&3; exec 3>&-; cat c") == "hi\n"
    assert bench.sh("seq 3 | tee a > b; cmp a b; exec 3<a; rm a; cat <&3") == "1\n2\n3\n"
