"""Run a command for which sockets of one family don't exist: ``python -m tests.without AF_INET6 COMMAND...``.

What a kernel without IPv6 answers, or a sandbox without netlink, made by a filter on system calls (seccomp(2)).
"""

import ctypes
import errno
import os
import platform
import socket
import struct
import sys

_SOCKET_CALL = {"x86_64": 41, "aarch64": 198}
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _SECCOMP_MODE_FILTER = 22, 38, 2
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06  # linux/bpf_common.h
_ERRNO, _ALLOW = 0x00050000, 0x7FFF0000  # linux/seccomp.h
_NUMBER, _FIRST_ARGUMENT = 0, 16  # struct seccomp_data


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def forbid(family: int) -> None:
    """From now on this process and its children can't make sockets of ``family``."""
    steps = [
        (_LOAD, 0, 0, _NUMBER),
        (_JUMP_IF_EQUAL, 0, 3, _SOCKET_CALL[platform.machine()]),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_JUMP_IF_EQUAL, 0, 1, family),
        (_RETURN, 0, 0, _ERRNO | errno.EAFNOSUPPORT),
        (_RETURN, 0, 0, _ALLOW),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = _Program(len(steps), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    for option, *arguments in (
        (_PR_SET_NO_NEW_PRIVS, 1, 0),
        (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(program)),
    ):
        if libc.prctl(option, *(ctypes.c_ulong(value) for value in arguments), 0, 0):
            raise OSError(ctypes.get_errno(), "prctl")


if __name__ == "__main__":
    forbid(getattr(socket, sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])
