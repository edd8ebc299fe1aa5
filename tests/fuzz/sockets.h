/*
 * Sockets in memory: a run of an input that makes no system call is a third to a half quicker. The linker puts them in the place
 * of socketpair, and of what is done with such a pair: send, sendmsg, recv, recvmsg, poll, close, setsockopt (SO_SNDBUF), uv_poll_*.
 * File descriptors of files are passed on to the real ones. As with Linux's UNIX stream sockets (net/unix/af_unix.c):
 *
 * - what is sent beyond the size of the buffer is refused (EAGAIN), in part where some of it has room;
 * - a read joins what was sent in several calls, up to the end of the first that brought fds, which come with its first byte;
 *   fds that the reader has no room for are gone, and MSG_CTRUNC says so. MSG_PEEK takes nothing, and tells of fds behind the
 *   bytes that it was asked for, too;
 * - where the other end is closed, what it has sent is read, then the end (0); sending is EPIPE. Where it left bytes unread, the
 *   reader is told ECONNRESET once before the end, and a poll tells an error;
 * - poll tells a hang-up whatever is asked for, and libuv makes of the events what uv__io_poll and uv__poll_io (1.44) do.
 */
#pragma once

/* How many ends are open. */
int sockets_open(void);
