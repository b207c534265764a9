/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * One direction of a spliced connection: a writer, its peer, and two queues
 * between them, the redirected one and TCP's. Every step that other processors
 * can see half done is a step here. DOWN makes the backend the writer, else it is
 * the agent. What is claimed, in every interleaving:
 *
 *   order   whoever reads, by recvmsg(2) or by splice(2), reads byte after byte
 *   end     an end of file comes after the last byte
 *   loss    a byte that is not read is an error: the writer's, or its reader's
 *   bound   no more than LIMIT bytes lie redirected
 *   wake    nobody waits for ever (spin's invalid end states)
 *
 * What stands for what:
 *
 *   tcp, red      the receiver's sk_receive_queue; its psock's ingress_msg
 *   write_seq     tcp_sock.write_seq of the writer: bytes that it gave to TCP
 *   copied        tcp_sock.copied_seq of the reader: bytes of TCP that were read
 *   seen          sl_half.copied_seq, what sl_recv has noted of it (note_copied)
 *   received      sl_half.received
 *   spliced       sl_half.spliced
 *   mode          sl_half.reader of the reader: unproven, by recvmsg, by splice(2)
 *   over, lost    sl_flow's
 *   end_read      Conn.endRead
 *   awaited       sl_flow's; woken is the event of sl_events that follows
 *
 *   write()       sl_msg in splice.c, from "unread = ..." on; verdict and delivery
 *                 are apart, as the kernel lets go of the lock between them
 *   may_write()   sl_may_write in splice.c, asked by awaitCredit in credit.go
 *   recv()        recvmsg(2) and then sl_recv in readers.h
 *   splice()      splice(2) and sl_adjust in readers.h
 *   Joiner        join in identity.h: the reader's end comes when it likes, after
 *                 bytes have gone by TCP, too
 *   Closer        shutdown(2) and close(2) of a backend, and on_state in identity.h
 *   End           End in conn.go; sendEnd in credit.go is where the Writer ends
 *   Crash         the end of the agent's process
 *   Agent         blind.go: a reader that stays blind is reset
 *
 * A message is one byte. Left out: sizes, memory (ENOMEM), FIONREAD, and
 * sl_unproven's count, for which the model earns the splice at any read.
 * How streams end is in ends.pml. Mutants (models.txt) take one rule away each, and must fail. The order in which
 * sl_recv and unread_by use their two figures has none: nothing here depends on it.
 */
#ifndef N
#define N 4       /* bytes of the stream */
#endif
#ifndef READERS
#define READERS 2 /* threads */
#endif
#define LIMIT 3   /* sl_settings.limit; for the backend sl_half.room, if less */
#define CREDIT 2  /* sl_settings.credit */

mtype = { unproven, by_recv, by_splice };

chan tcp = [N] of { byte };
chan red = [N] of { byte };

byte write_seq, copied, seen, received, spliced, next = 1;
#ifdef DOWN
mtype mode = by_recv; /* the agent need not earn it */
#else
mtype mode = unproven;
#endif
bool joined, over, awaited, woken, blind;
byte awaits;                    /* the value in sl_flow.awaited, less one */
byte arrived;                   /* redirected bytes, each of which wakes readers */
byte noticed;                   /* sl_flow.noticed */
byte told_at;                   /* sl_event.received of the last sl_is_blind */
bool locked;                    /* the lock of the reader's socket, when held for long */
bool fin, closed, reset, told;  /* FIN is in TCP; the reader has closed; RST; the agent knows */
bool lost, ended;               /* sl_flow.lost; the reader saw the end */
bool fin_back, end_read;        /* the backend's FIN; the agent has read it */
bool crashed;                   /* the agent was killed */

/* unread_by in maps.h: what was received first, then how far TCP was read. */
inline unread_by() {
	r = received;
	c = seen;
	/* never less than 0, never more than spliced */
	d_step {
		u = (spliced + c < r -> 0 : spliced + c - r);
		u = (u > spliced -> spliced : u);
		c = 0 /* one state less to tell apart */
	}
}

/* One write of the byte b; ok tells whether it was taken. */
inline write(b) {
	ok = true;
	ordered = false;
	if
	:: over || lost -> to_tcp = true
	:: else ->
		unread_by();
#ifdef DOWN
		ordered = false;
#elif defined(MUTANT_OVERFLOW_TO_TCP)
		ordered = false;
#else
		ordered = u > 0;
#endif
		to_tcp = false;
		if
		:: ordered
		:: else ->
			if
			:: mode != by_recv -> to_tcp = true
			:: else
			fi;
#ifdef PRESSURE
			if
			:: to_tcp = true /* memory_pressure, or sl_settings.stopped */
			:: true
			fi;
#endif
#ifndef MUTANT_NO_ORDER
			/* the exact guard */
			if
			:: write_seq != seen -> to_tcp = true
			:: else
			fi;
#endif
#ifndef DOWN
			if
#ifdef MUTANT_REDIRECTS_AGAIN
			:: to_tcp && mode == by_splice -> over = true
#else
			:: to_tcp && (spliced > 0 || mode == by_splice) -> over = true
#endif
			:: else
			fi
#endif
		fi;
#ifndef MUTANT_NO_BOUND
		if
		:: !to_tcp && u + 1 > LIMIT && ordered -> ok = false
		:: !to_tcp && u + 1 > LIMIT && !ordered -> to_tcp = true
		:: else
		fi
#endif
	fi;
	if
	:: !ok
	:: ok && !to_tcp ->
		spliced++;           /* book first, then ask again */
#ifndef MUTANT_NOT_ASKED_AGAIN
		if
		:: !ordered && mode != by_recv -> spliced--; to_tcp = true
		:: else
		fi;
#endif
		if
		:: !to_tcp && !joined -> spliced--; to_tcp = true /* no such key */
		:: else
		fi
	:: ok && to_tcp
	fi;
	/* here the writer's lock is let go */
	if
	:: !ok -> told = true
	:: ok && !to_tcp ->
		atomic {
			if
			:: closed || reset -> told = true; ok = false /* EPIPE */
			:: else -> red ! b; arrived++; assert(len(red) <= LIMIT)
			fi
		}
	:: ok && to_tcp ->
		atomic {
			if
			:: closed || reset -> told = true; ok = false /* RST */
			:: else -> tcp ! b; write_seq++
			fi
		}
#ifndef DOWN
		if
		:: ok && !over && mode == by_splice && !ordered -> over = true
		:: else
		fi
#endif
	fi
}

/* The agent's sl_may_write, with want bytes to write next; 0 is a FIN. */
inline may_write(want) {
	do
	:: over || lost || told -> break
	:: else ->
		unread_by();
		if
		:: u == 0 || (want > 0 && mode == by_recv && u + want <= CREDIT) -> awaited = false; break
		:: else
		fi;
		/* leave word, then look again */
		awaits = (want == 0 || mode != by_recv -> 0 : 1);
		awaited = true;
#ifndef MUTANT_LOSS_NOT_LOOKED_FOR_AGAIN
		if
		:: lost -> break
		:: else
		fi;
#endif
#ifndef MUTANT_NO_SECOND_LOOK
		unread_by();
		if
		:: u == 0 || (want > 0 && mode == by_recv && u + want <= CREDIT) -> awaited = false; break
		:: else
		fi;
#endif
		/* until an event; the look once a second is left out */
		if
		:: woken -> woken = false
		:: reset -> told = true
		fi
	od
}

active proctype Writer() {
	byte i = 1, u, r, c;
	bool ok, ordered, to_tcp;

	{
		do
		:: i > N || told -> break
		:: i <= N && !told ->
#ifndef DOWN
			may_write(1);
#endif
			if
			:: told
			:: else -> write(i); atomic { i++; u = 0; r = 0; ok = false; ordered = false; to_tcp = false }
			fi
		od;
		if
		:: told
		:: else ->
#if !defined(DOWN) && !defined(MUTANT_FIN_AT_ONCE)
			may_write(0); /* CloseWrite in credit.go */
#endif
			if
			:: end_read ->
				if
				:: lost -> told = true
				:: else -> fin = true
				fi
			:: else -> fin = true
			fi
		fi
	} unless { crashed }
}

/* What every reader checks under the reader's lock. */
inline take(q) {
	q ? b;
	assert(b == next && !lost);
	next++
}

/* recvmsg(2), which takes redirected bytes first, and then sl_recv. */
inline recv() {
	got = false;
	atomic {
		if
		:: ended || closed || reset -> break
		:: !(ended || closed || reset) && !locked && len(red) > 0 -> take(red); got = true
		:: !(ended || closed || reset) && !locked && len(red) == 0 && len(tcp) > 0 -> take(tcp); copied++; got = true
		:: !(ended || closed || reset) && !locked && len(red) == 0 && len(tcp) == 0 && fin -> ended = true; assert(next == N + 1)
		fi
	}
	if
	:: !got -> break
	:: got
	fi;
	/* First how far it is in TCP, the greatest that was seen. */
	was = copied;
	atomic {
		if
		:: was > seen -> news = was - seen; seen = was
		:: else -> news = 0
		fi
	}
	received++;
#ifndef DOWN
	if
	:: awaited ->
		unread_by();
		atomic {
			if
			:: awaited && u <= awaits -> awaited = false; woken = true
			:: else
			fi
		}
	:: else
	fi;
#endif
	atomic {
		if
#ifdef MUTANT_INEXACT
		:: mode == unproven -> mode = by_recv
#else
		:: mode == unproven && news == 1 -> mode = by_recv
#endif
		:: true
		fi
	}
}

/*
 * splice(2), which sees TCP's bytes only, and sl_adjust, which runs under the lock
 * of the socket. One that finds none sleeps, and looks again when bytes arrive,
 * redirected ones, too (sk_data_ready).
 */
inline splice() {
	atomic {
		if
		:: ended || closed || reset -> break
		:: !(ended || closed || reset) && !locked && len(tcp) > 0 -> take(tcp); copied++; locked = true; way = 0
		:: !(ended || closed || reset) && !locked && len(tcp) == 0 && fin -> ended = true; assert(next == N + 1)
		:: !(ended || closed || reset) && !locked && len(tcp) == 0 && !fin && looked != arrived -> looked = arrived; locked = true
		fi
	}
	if
	:: ended -> break
	:: else
	fi;
	/* Mark first, then look at the books. */
	mode = by_splice;
	if
	:: over
	:: else ->
		unread_by();
		if
#ifdef MUTANT_OVER_BY_READER
		:: u == 0 -> over = true
#endif
		:: u > 0 && noticed != received + 1 -> atomic { blind = true; told_at = r; noticed = r + 1 }
		:: else
		fi
	fi;
	atomic { locked = false; u = 0; r = 0; b = 0 }
}

/* A thread of the reader. */
proctype Reader() {
	byte b, was, u, r, c, news, way, looked;
	bool got;

	do
	:: way == 0 ->
		if
		:: way = 1 /* recvmsg(2) */
#ifdef SPLICES
		:: way = 2; looked = 255 /* splice(2) */
#endif
		fi
	:: way == 1 -> recv(); atomic { way = 0; u = 0; r = 0; b = 0; was = 0; news = 0; got = false }
#ifdef SPLICES
	:: way == 2 -> splice()
#endif
	od
}

/* The reader's end joins when it likes. */
active proctype Joiner() {
	joined = true
}

#include "ends.pml"

/* When nothing can happen any more: the loss that nobody was told of. */
active proctype Judge() {
	timeout;
	assert(ended || reset || closed);
	assert(next == N + 1 || told || reset)
}

init {
	atomic {
		run Reader();
#if READERS > 1
		run Reader();
#endif
#ifdef CLOSES
		run Closer();
		run End();
#endif
#ifdef CRASHES
		run Crash();
#endif
	}
}
