"""Programs that save a file and are done: the shell's, and those that copy, edit and unpack.

Each script runs in the folder. ``$1`` is a directory on the disk, with a ``letter.txt``, a second
version of it in ``second/``, and a scratch directory of the same file system in ``$1/scratch``.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from tests.programs.place import LETTER, Case, Place, version_of

PREPARE = r"""
cd "$1"
mkdir second third
echo 'first text' > letter.txt
echo 'second text' > second/letter.txt
touch -d '2020-02-02 02:02:02' letter.txt
touch -d '2021-02-02 02:02:02' second/letter.txt
chmod 640 letter.txt
"""


@dataclass(frozen=True)
class Tool:
    """``new`` makes the file; ``again`` changes one that is there, by default as ``new`` does.
    ``second`` is ``new`` with another text."""

    name: str
    package: str
    new: str = ""
    again: str = ""
    second: str = ""
    document: str = LETTER
    prepare: str = ""

    def _prepared(self, place: Place) -> None:
        place.shell(PREPARE)
        if self.prepare:
            place.shell(f'cd "$1"\n{self.prepare}')

    def fresh(self, place: Place) -> None:
        self._prepared(place)
        place.shell(self.new)
        place.finished(self.document)

    def existing(self, place: Place) -> None:
        self._prepared(place)
        place.existing()
        place.shell(self.again or self.new)
        place.finished(self.document)

    def twice(self, place: Place) -> None:
        """Two documents: the second is saved when the first has been sent."""
        self.fresh(place)
        place.sent(self.document)
        place.shell(self.second)
        place.finished(self.document)

    def cases(self) -> Iterator[Case]:
        version = version_of(self.package)
        if self.new:
            yield Case(self.name, "new", self.fresh, version)
        if self.again or self.new:
            yield Case(self.name, "existing", self.existing, version)
        if self.second:
            yield Case(self.name, "twice", self.twice, version)


def _copies(name: str, package: str, command: str, prepare: str = "") -> Tool:
    """A program that takes a source file and where to put it; ``{}`` stands for the source."""
    return Tool(
        name,
        package,
        command.format("$1/letter.txt"),
        command.format("$1/second/letter.txt"),
        command.format("$1/second/letter.txt"),
        prepare=prepare,
    )


_COMMITS = """
export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a
git init -q -b main --bare git
for tree in . second; do
    git --git-dir=git --work-tree=$tree add letter.txt
    git --git-dir=git --work-tree=$tree commit -q -m one
done
"""

SH = "dash"
COREUTILS = "coreutils"
PYTHON = "python3"

TOOLS = (
    Tool("echo >", SH, "echo one > letter.txt", "", "echo two > letter.txt"),
    Tool("echo >>", SH, "echo one >> letter.txt; echo two >> letter.txt"),
    Tool("cat <<", SH, "cat > letter.txt <<.\none\ntwo\n.\n"),
    Tool("printf, pieces", SH, "{ printf one; printf two; sync .; printf three; } > letter.txt"),
    Tool("tee", COREUTILS, "echo one | tee letter.txt", "echo two | tee -a letter.txt"),
    _copies("cp", COREUTILS, "cp {} letter.txt"),
    _copies("cp -p", COREUTILS, "cp -p {} ."),
    _copies("cp -a", COREUTILS, "cp -a {} ."),
    _copies("cp --backup", COREUTILS, "cp --backup {} ."),
    _copies("cp --remove-destination", COREUTILS, "cp --remove-destination {} ."),
    _copies("cp to a name.part, mv", COREUTILS, "cp {} letter.part; mv letter.part letter.txt"),
    _copies("mv", COREUTILS, "mv {} letter.txt"),
    _copies("mv -n", COREUTILS, "rm -f letter.txt; mv -n {} letter.txt"),
    _copies("mv -b", COREUTILS, "mv -b {} letter.txt"),
    _copies("install", COREUTILS, "install -m 600 {} letter.txt"),
    _copies("install -C", COREUTILS, "install -C -m 600 {} letter.txt"),
    _copies("install -b", COREUTILS, "install -b -m 600 {} letter.txt"),
    _copies("dd", COREUTILS, "dd if={} of=letter.txt bs=3 conv=fsync status=none"),
    _copies("sort -o", COREUTILS, "sort {} -o letter.txt"),
    Tool("sort -o, in place", COREUTILS, again="sort letter.txt letter.txt -o letter.txt"),
    Tool("truncate", COREUTILS, "truncate -s 100 letter.txt"),
    Tool("head >", COREUTILS, "head -c 300000 /dev/zero > letter.txt"),
    _copies("tar", "tar", "tar -C $(dirname {}) -cf - letter.txt | tar xf -"),
    _copies(
        "unzip",
        "unzip",
        "unzip -q -o $(dirname {})/letter.zip",
        "zip -q letter.zip letter.txt; (cd second; zip -q letter.zip letter.txt)",
    ),
    Tool(
        "zip",
        "zip",
        "(cd $1; TZ=UTC zip -q -X - letter.txt) > letter.zip",
        "TZ=UTC zip -q -X new.zip -j $1/letter.txt; mv new.zip letter.zip",
        document="letter.zip",
    ),
    Tool(
        "gzip",
        "gzip",
        "gzip -n < $1/letter.txt > letter.txt.gz",
        "touch letter.txt; gzip -n letter.txt",  # it keeps the date
        document="letter.txt.gz",
    ),
    _copies("rsync", "rsync", "rsync {} ."),
    _copies("rsync -a", "rsync", "rsync -a {} ."),
    _copies("rsync -b", "rsync", "rsync -ab {} ."),
    _copies("rsync --delay-updates", "rsync", "rsync -a --delay-updates {} ."),
    _copies("rsync --inplace", "rsync", "rsync -a --inplace {} ."),
    _copies("gio copy", "libglib2.0-bin", "gio copy {} letter.txt"),
    _copies("gio copy -b", "libglib2.0-bin", "gio copy -b {} letter.txt"),
    _copies("gio move", "libglib2.0-bin", "gio move {} letter.txt"),
    _copies("gio save", "libglib2.0-bin", "gio save letter.txt < {}"),
    _copies("rclone copy", "rclone", "rclone copy {} . 2>&1 | sed s/^.*rclone//"),
    _copies("curl", "curl", "curl -s -o letter.txt file://{}"),
    Tool("sed -i", "sed", again="sed -i s/old/new/ letter.txt"),
    Tool("sed -i.bak", "sed", again="sed -i.bak s/old/new/ letter.txt"),
    Tool("sed w", "sed", "sed -n 'w letter.txt' $1/letter.txt"),
    Tool("perl -i", "perl", again="perl -pi -e s/old/new/ letter.txt"),
    Tool("perl -i.bak", "perl", again="perl -pi.bak -e s/old/new/ letter.txt"),
    Tool("awk", "mawk", "awk 1 $1/letter.txt > letter.txt"),
    Tool("ed, script", "ed", again="printf ',s/old/new/\\nw\\nq\\n' | ed -s letter.txt"),
    Tool(
        "patch",
        "patch",
        "patch -s < $1/new.diff",
        "patch -s < $1/change.diff",
        prepare="""
            printf -- '--- /dev/null\n+++ letter.txt\n@@ -0,0 +1 @@\n+added\n' > new.diff
            printf -- '--- letter.txt\n+++ letter.txt\n@@ -1 +1 @@\n-old text\n+new\n' > change.diff
            """,
    ),
    Tool(
        "patch -b",
        "patch",
        again="patch -s -b < $1/change.diff",
        prepare="""
            printf -- '--- letter.txt\n+++ letter.txt\n@@ -1 +1 @@\n-old text\n+new\n' > change.diff
            """,
    ),
    Tool(
        "git checkout",
        "git",
        "git --git-dir=$1/git --work-tree=. checkout -q main~ -- letter.txt",
        "",
        "git --git-dir=$1/git --work-tree=. checkout -q main -- letter.txt",
        prepare=_COMMITS,
    ),
    Tool(
        "git restore",
        "git",
        "git --git-dir=$1/git --work-tree=. restore -s main~ letter.txt",
        "",
        "git --git-dir=$1/git --work-tree=. restore -s main letter.txt",
        prepare=_COMMITS,
    ),
    Tool(
        "git apply",
        "git",
        again="git apply $1/change.diff",
        prepare="""
            printf -- '--- a/letter.txt\n+++ b/letter.txt\n@@ -1 +1 @@\n-old text\n+new\n' \
                > change.diff
            """,
    ),
    Tool("python open", PYTHON, """python3 -c 'open("letter.txt", "w").write("text")'"""),
    Tool(
        "python os.replace",
        PYTHON,
        """python3 -c '
import os, tempfile
fd, name = tempfile.mkstemp(dir=".")
os.write(fd, b"text"); os.fsync(fd); os.close(fd); os.replace(name, "letter.txt")'""",
    ),
    Tool(
        "python shutil.copy2",
        PYTHON,
        """python3 -c 'import shutil, sys; shutil.copy2(sys.argv[1] + "/letter.txt", ".")' $1""",
    ),
    Tool(
        "python mmap",
        PYTHON,
        """python3 -c '
import mmap
file = open("letter.txt", "w+b"); file.truncate(70000)
view = mmap.mmap(file.fileno(), 0); view[60000:60004] = b"text"; view.close()'""",
    ),
    Tool("ln", COREUTILS, "cp $1/letter.txt a.tmp; ln -f a.tmp letter.txt; rm a.tmp"),
    Tool("touch, echo", COREUTILS, "touch letter.txt; chmod 600 letter.txt; echo x > letter.txt"),
)


def _appended_twice(place: Place) -> None:
    place.shell("echo one >> letter.txt")
    place.finished()
    place.sent()
    place.shell("echo two >> letter.txt")
    place.finished()


def _killed_copy(place: Place) -> None:
    place.shell(PREPARE)
    place.shell("(cat $1/letter.txt; kill -9 $(sh -c 'echo $PPID')) > letter.txt || true")
    place.finished()
    place.sent()
    place.shell("cat $1/letter.txt $1/letter.txt > letter.txt")
    place.finished()


def _killed_rsync(place: Place) -> None:
    """What it leaves behind is hidden, and no message."""
    place.shell(PREPARE)
    place.shell("head -c 3000000 /dev/zero > $1/letter.txt")
    place.shell(
        "timeout -s KILL 0.4 rsync --bwlimit=1000 $1/letter.txt . 2> /dev/null || true;"
        " rm -f .letter.txt.*"
    )
    place.pass_grace()
    place.shell("rsync $1/letter.txt .")
    place.finished()


def _delayed(place: Place) -> None:
    """Many files, which all get their names at the end."""
    place.shell(PREPARE)
    place.shell("cd $1/third; for n in 1 2 3 4 5; do echo text $n > $n.txt; done")
    place.shell("rsync -a --delay-updates $1/third/ .")
    for number in range(1, 6):
        place.finished(f"{number}.txt")


def _in_turn(place: Place) -> None:
    """Several programs of one script write a file, with a pause between them."""
    place.shell(PREPARE)
    place.shell(
        "cat $1/letter.txt > letter.txt; sleep 0.3; cat $1/second/letter.txt >> letter.txt;"
        " sed -i s/second/third/ letter.txt"
    )
    place.finished()


def _held(place: Place) -> None:
    """A date to come, of the same command line, holds what is copied."""
    place.shell(PREPARE)
    place.shell("cp $1/letter.txt letter.txt; touch -d tomorrow letter.txt")
    place.shell("cp $1/letter.txt other.txt && sleep 0.3 && touch -d tomorrow other.txt")
    place.pass_grace()


def _taken_back(place: Place) -> None:
    place.existing()
    place.shell("echo never > note.txt; rm note.txt; rm letter.txt")


def _moved_in_twice(place: Place) -> None:
    """Renaming what has been sent, or giving it another name, sends nothing."""
    place.shell("echo one > letter.txt; ln letter.txt letter.bak; mv letter.txt other.txt")
    place.finished("other.txt")
    place.documents.add("letter.bak")  # one file under two names: it leaves with both
    place.sent("other.txt")


def tool_cases() -> Iterator[Case]:
    """All of them."""
    for tool in TOOLS:
        yield from tool.cases()
    yield Case("echo >>", "twice, apart", _appended_twice, version_of(SH), known=True)
    yield Case("cat >", "killed, again", _killed_copy, version_of(COREUTILS), known=True)
    yield Case("rsync", "killed, again", _killed_rsync, version_of("rsync"))
    yield Case("rsync --delay-updates", "several", _delayed, version_of("rsync"))
    yield Case("cat, sed", "in turn", _in_turn, version_of(COREUTILS))
    yield Case("cp, touch -d", "held", _held, version_of(COREUTILS))
    yield Case("rm", "taken back", _taken_back, version_of(COREUTILS))
    yield Case("mv, ln", "renamed", _moved_in_twice, version_of(COREUTILS))
