/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Who gets whose bytes: two connections of an agent (CONNS), one after the other from the
 * same port to the same backend, so that all have one 4-tuple; the backend's ends
 * of earlier ones may live on. And a thief: a socket of another namespace, with the
 * same 4-tuple, that is established at any time. What is claimed, in every
 * interleaving:
 *
 *   right   a byte that is redirected arrives at its own connection's other end
 *   own     nobody writes into the figures of another connection's flow
 *   clean   at the end no entry of a map is left
 *
 * What stands for what:
 *
 *   announced     sl_announced; the key is the identity, two initial sequence numbers
 *                 that belong to one connection: IDENT
 *   flow, entry   sl_flows: an id, and the memory that it is in, ENTRIES of them,
 *                 used again at once
 *   socks_b       sl_socks, the backend's ends; the key is end_key, of the cookie: KEY
 *   state, freed  sl_end's state and released, of the backend's end
 *
 *   Agent         announce and on_state in identity.h; sl_msg's redirect
 *   Backend       on_passive and join in identity.h
 *   Reader        enter_flow, sl_recv's writes and leave_flow in maps.h
 *   Closer        on_state of the backend's end
 *   Asker         sl_may_write: hold_flow in maps.h
 *
 * READS, ASKS and STEALS say who of them takes part.
 */
#ifndef CONNS
#define CONNS 2
#endif
#define THIEF 4
#ifndef ENTRIES
#define ENTRIES 1
#endif

#ifdef MUTANT_ANNOUNCED_BY_TUPLE
#define IDENT(c) 0
#else
#define IDENT(c) c
#endif
#ifdef MUTANT_SOCKS_BY_TUPLE
#define KEY(c) 0
#else
#define KEY(c) c
#endif
#define NONE 2
#define GONE 8

byte id[2], ends[2];            /* of an entry: its flow, who uses it */
byte announced[5];               /* the flow, by identity */
byte socks_b[5];                 /* the socket, by key */
byte state[5];
bool freed[5], backend_is[5];

/* bpf_map_lookup_elem(&sl_flows, &c): the entry, or NONE. */
inline lookup(c, e) {
	d_step {
		if
		:: id[0] == c -> e = 0
		:: id[0] != c && id[1] == c -> e = 1
		:: else -> e = NONE
		fi
	}
}

inline release(e) {
	atomic {
		assert(ends[e] > 0);
		ends[e]--;
		last = ends[e] == 0
	}
	if
	:: last -> id[e] = 0 /* bpf_map_delete_elem */
	:: else
	fi
}

proctype Reader(byte c) {
	byte e, was;
	bool last;

#ifdef MUTANT_READER_HOLDS_NOTHING
	lookup(c, e);
	if
	:: e < NONE -> assert(id[e] == c)
	:: else
	fi
#else
	atomic { was = state[c]; state[c]++ }
	e = NONE;
	if
	:: was < GONE -> lookup(c, e)
	:: else
	fi;
	if
	:: e < NONE -> assert(id[e] == c) /* writes received, copied_seq */
	:: else
	fi;
	atomic { was = state[c]; state[c]-- }
	if
	:: was == GONE + 1 ->
		atomic { last = freed[c]; freed[c] = true }
		if
		:: !last -> lookup(c, e); if :: e < NONE -> release(e) :: else fi
		:: else
		fi
	:: else
	fi
#endif
}

/* The backend's end closes: while somebody reads, too. */
proctype Closer(byte c) {
	byte e, was;
	bool last;

	lookup(c, e);
	if
	:: e < NONE ->
		atomic { was = state[c]; state[c] = (was < GONE -> was + GONE : was) }
		if
		:: was == 0 ->
			atomic { last = freed[c]; freed[c] = true }
			if
			:: !last -> release(e)
			:: else
			fi
		:: else
		fi
	:: else
	fi;
	d_step { socks_b[KEY(c)] = (socks_b[KEY(c)] == c -> 0 : socks_b[KEY(c)]) }
}

/* An accepted connection, of the agent's or the thief's. */
proctype Backend(byte c) {
	byte f, e;
	bool mine, last;

	f = announced[IDENT(c)];
	if
	:: f == 0 -> goto out
	:: else
	fi;
#ifdef MUTANT_BOTH_TAKE_OVER
	mine = true;
	announced[IDENT(c)] = 0;
#else
	atomic { mine = announced[IDENT(c)] != 0; announced[IDENT(c)] = 0 }
#endif
	if
	:: !mine -> goto out
	:: else
	fi;
	lookup(f, e);
	if
	:: e == NONE -> goto out
	:: else
	fi;
	atomic {
		if
		:: socks_b[KEY(f)] == 0 -> socks_b[KEY(f)] = c; backend_is[c] = true /* BPF_NOEXIST */
		:: else
		fi
	}
	if
	:: !backend_is[c] -> release(e)
	:: backend_is[c] && c == THIEF
	:: backend_is[c] && c != THIEF ->
#ifdef READS
		run Reader(c);
#endif
		run Closer(c)
	fi;
out:	skip
}

/* The writer of a connection, which holds nothing, between two of its writes. */
proctype Asker(byte c) {
	byte e, had;
	bool last;

	lookup(c, e);
	if
	:: e == NONE -> goto out
	:: else
	fi;
	atomic { had = ends[e]; ends[e] = (had > 0 -> had + 1 : 0) } /* compare and swap */
	if
	:: had == 0 -> goto out
	:: else
	fi;
#ifndef MUTANT_ID_NOT_COMPARED
	if
	:: id[e] != c -> release(e); goto out
	:: else
	fi;
#endif
	assert(id[e] == c);
	release(e);
out:	skip
}

active proctype Agent() {
	byte c = 1, e, to;
	bool mine, last;

	do
	:: c > CONNS -> break
	:: c <= CONNS ->
		/* announce: a flow where there is room, then the identity. */
		atomic {
			if
			:: id[0] == 0 -> e = 0
			:: ENTRIES > 1 && id[0] != 0 && id[1] == 0 -> e = 1
			:: else -> e = NONE /* map_full: TCP */
			fi;
			if
			:: e < NONE -> id[e] = c; ends[e] = 0
			:: else
			fi
		}
		if
		:: e < NONE ->
			ends[e] = 2;
			announced[IDENT(c)] = c;
			run Backend(c);
#ifdef ASKS
			run Asker(c);
#endif
			/* A write: sl_msg's redirect. */
			to = socks_b[KEY(c)];
			assert(to == 0 || to == c);
			/* on_state: who deletes the announcement has its share. */
			atomic { mine = announced[IDENT(c)] == c; announced[IDENT(c)] = (mine -> 0 : announced[IDENT(c)]) }
			if
			:: mine -> release(e)
			:: else
			fi;
			release(e)
		:: else -> run Backend(c)
		fi;
		c++
	od
}

active proctype Judge() {
	timeout;
	assert(id[0] == 0 && id[1] == 0 && announced[0] + announced[1] + announced[2] + announced[3] == 0);
	assert(socks_b[0] + socks_b[1] + socks_b[2] + socks_b[3] == 0)
}

#ifdef STEALS
init { run Backend(THIEF) }
#endif
