#!/usr/bin/env python3
"""Runs a command to which the kernel refuses io_uring, as container runtimes do by default.

    no_io_uring.py COMMAND [ARGUMENT...]

Installs a seccomp filter that answers the three io_uring calls with EPERM (or with the number in the environment
variable ERRNO: 38 is ENOSYS, 12 ENOMEM) and then becomes the command. Needs no privilege.
"""

import ctypes
import os
import platform
import struct
import sys

PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 22, 38
SECCOMP_MODE_FILTER = 2
SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO = 0x7FFF0000, 0x00050000
LOAD_WORD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
# setup, enter, register: the same numbers on every architecture.
CALLS = (425, 426, 427)


def instruction(code, if_true, if_false, value):
    return struct.pack("HBBI", code, if_true, if_false, value)


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    refusal = SECCOMP_RET_ERRNO | int(os.environ.get("ERRNO", "1"))
    program = [instruction(LOAD_WORD, 0, 0, 0)]
    for at, call in enumerate(CALLS):
        program.append(instruction(JUMP_IF_EQUAL, len(CALLS) - at, 0, call))
    program.append(instruction(RETURN, 0, 0, SECCOMP_RET_ALLOW))
    program.append(instruction(RETURN, 0, 0, refusal))
    code = ctypes.create_string_buffer(b"".join(program))
    filter_program = struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        sys.exit(f"PR_SET_NO_NEW_PRIVS: {os.strerror(ctypes.get_errno())}")
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.c_char_p(filter_program), 0, 0) != 0:
        sys.exit(f"PR_SET_SECCOMP on {platform.machine()}: {os.strerror(ctypes.get_errno())}")
    os.execvp(sys.argv[1], sys.argv[1:])


main()
