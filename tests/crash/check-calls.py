#!/usr/bin/env python3
"""Every call of qmpctl and of libuv that changes something outside of the process is counted by boundary.c, or stands here with
why it is not.

    check-calls.py QMPCTL LIBBOUNDARY

What a program calls is what it imports. The libraries that it loads on demand call through the same names.
"""
import re
import subprocess
import sys

# Whatever the C library has that changes something which others can see, or that survives the process.
CHANGING = set("""
    accept accept4 bind chmod chown close_range clone connect copy_file_range creat daemon execl execle execlp execv execve execveat execvp
    execvpe fallocate fchmod fchmodat fchown fchownat fclose fcntl fdatasync fdopen fexecve flock fopen fork forkpty freopen
    fremovexattr fsetxattr fsync ftruncate futimens futimes futimesat ioctl kill killpg lchmod lchown link linkat listen lockf
    lremovexattr lsetxattr lutimes mkdir mkdirat mkdtemp mkfifo mkfifoat mknod mknodat mkostemp mkostemps mkstemp mkstemps mount
    mq_open mq_send mq_unlink msgsnd msync open openat open_2 openat_2 openpty openlog pidfd_send_signal pivot_root popen posix_fallocate
    posix_openpt posix_spawn posix_spawnp process_vm_writev ptrace pwrite pwritev pwritev2 read readv recv recvfrom recvmmsg recvmsg
    remove removexattr rename renameat renameat2 rmdir sem_open sem_unlink semop send sendfile sendmmsg sendmsg sendto sethostname
    setxattr shm_open shm_unlink shmget shutdown sigqueue splice symlink symlinkat sync sync_file_range syncfs syscall syslog system
    tcsetattr tee tempnam tgkill tmpfile tmpnam truncate umount umount2 unlink unlinkat utime utimensat utimes vfork vmsplice waitid waitpid write writev
""".split())

# Why these are not counted.
OF_A_CHILD = "only between fork, which counts, and the program of the child"
NOT_COUNTED = {
    "execl": OF_A_CHILD, "execv": OF_A_CHILD, "execvpe": OF_A_CHILD, "execvp": OF_A_CHILD,
    "close_range": OF_A_CHILD,
    "syscall": "openat2 that makes nothing, and capset in a child; of libuv: epoll and what has wrappers in newer C libraries",
    "fclose": "all that is opened is read, or is memory",
    "fdopen": "of what is open already, to read it",
    "tcsetattr": "of the terminal that a console is on: a sweep has none",
}


def functions(path, which):
    out = subprocess.run(["nm", "-D", which, path], check=True, stdout=subprocess.PIPE, text=True).stdout
    return {line.split()[-1].split("@")[0] for line in out.splitlines() if line.split()[-2] in "TWUi"}


def plain(name):
    """Without what hardened builds and large files add to it."""
    return re.sub(r"(64)?(_chk)?$", "", re.sub(r"64(?=_2$)", "", name.removeprefix("__")))


def libuv_of(program):
    out = subprocess.run(["ldd", program], check=True, stdout=subprocess.PIPE, text=True).stdout
    return re.findall(r"(/\S*libuv\S*)", out)


def main():
    program, boundary = sys.argv[1:]
    counted, bad, asked = functions(boundary, "--defined-only"), [], set()
    for path in [program, *libuv_of(program)]:
        calls = {name for name in functions(path, "--undefined-only") if plain(name) in CHANGING}
        asked |= calls
        bad += [f"{path} calls {name}, which boundary.c does not count" for name in sorted(calls - counted) if plain(name) not in NOT_COUNTED]
    bad += [f"{name} is excused, but nobody calls it, or it is counted" for name in sorted(set(NOT_COUNTED) - {plain(n) for n in asked - counted})]
    bad += [f"{name} is not among those that change something" for name in sorted(set(NOT_COUNTED) - CHANGING)]
    for line in bad:
        print(line)
    print(f"{len(asked)} calls that change something, {len(asked & counted)} of them counted")
    sys.exit(bool(bad) or not asked)


if __name__ == "__main__":
    main()
