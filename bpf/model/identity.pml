/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Who gets whose bytes: CONNS connections of AGENTS agents to PODS backends. An
 * agent makes one after the other from the same port, so that all to one backend
 * have one 4-tuple; the backend's ends of earlier ones may live on. TOGETHER, the first
 * two are made at the same time. The second agent makes the last one, at any time. And
 * a thief: a socket of another namespace, with the same 4-tuple, that is established at
 * any time. What is claimed, in every interleaving:
 *
 *   right   a byte that is redirected, either way, arrives at its own connection's
 *           other end
 *   own     nobody writes into the figures of another connection's flow
 *   clean   at the end no entry of a map is left, unless its agent was killed: then
 *           the map itself goes with the last socket in it
 *
 * What stands for what:
 *
 *   announced     sl_announced; the key is the identity, two initial sequence numbers
 *                 that belong to one connection: IDENT
 *   flow, entry   sl_flows: an id, and the memory that it is in, ENTRIES of them,
 *                 used again at once
 *   socks_*       sl_socks, the agents' and the backends' ends; the key is end_key, of
 *                 the cookie: KEY
 *   state, freed  sl_end's state and released, of the backend's end
 *
 *   Agent         announce and on_state in identity.h; sl_msg's redirect
 *   Backend       on_passive and join in identity.h, in the programs of every agent
 *   Reader        enter_flow, sl_recv's writes and leave_flow in maps.h
 *   Closer        sl_msg's redirect and on_state of the backend's end
 *   Asker         sl_may_write: hold_flow in maps.h
 *   Crash         the end of the first agent's process: its programs for sockops and
 *                 reads end at once, that of sk_msg with its sockets
 *
 * Each agent has maps of its own. READS, ASKS, STEALS and CRASHES say who else
 * takes part.
 */
#ifndef CONNS
#define CONNS 3
#endif
#ifndef AGENTS
#define AGENTS 1
#endif
#ifndef PODS
#define PODS 1
#endif
#ifndef ENTRIES
#define ENTRIES 1
#endif
#define THIEF (CONNS + 1)
#define SOCKS (CONNS + 2)
#define NONE 4
#define GONE 8

#define MAP(c) (AGENTS > 1 && c == CONNS) /* whose connection c is */
#ifdef MUTANT_ANNOUNCED_BY_TUPLE
#define IDENT(c) pod_of[c]
#else
#define IDENT(c) c
#endif
#ifdef MUTANT_SOCKS_BY_TUPLE
#define KEY(c) MAP(c) * SOCKS + pod_of[c]
#else
#define KEY(c) MAP(c) * SOCKS + c
#endif

byte pod_of[SOCKS];
byte id[5], ends[5];             /* of an entry: its flow, who uses it; two a map */
byte announced[AGENTS * SOCKS];    /* the flow, by identity */
byte socks_a[AGENTS * SOCKS];      /* the socket, by key */
byte socks_b[AGENTS * SOCKS];
byte state[SOCKS];
bool freed[SOCKS];
bool killed, detached;           /* the first agent; its programs */

/* Whether the programs run that fill and clear the map m. */
#ifdef CRASHES
#define RUNS(m) (!(detached && m == 0))
#define KILLED(m) (killed && m == 0)
#else
#define RUNS(m) true
#define KILLED(m) false
#endif

/* bpf_map_lookup_elem(&sl_flows, &c): the entry, or NONE. */
inline lookup(m, c, e) {
	d_step {
		if
		:: id[m * 2] == c -> e = m * 2
		:: id[m * 2] != c && id[m * 2 + 1] == c -> e = m * 2 + 1
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

	if
	:: !RUNS(MAP(c)) -> goto out
	:: else
	fi;
#ifdef MUTANT_READER_HOLDS_NOTHING
	lookup(MAP(c), c, e);
	if
	:: e < NONE -> assert(id[e] == c)
	:: else
	fi;
#else
	atomic { was = state[c]; state[c]++ }
	e = NONE;
	if
	:: was < GONE -> lookup(MAP(c), c, e)
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
		:: !last -> lookup(MAP(c), c, e); if :: e < NONE -> release(e) :: else fi
		:: else
		fi
	:: else
	fi;
#endif
out:	skip
}

/* The backend's end writes, and closes: while somebody reads, too. */
proctype Closer(byte c) {
	byte e, was, to;
	bool last;

	to = socks_a[KEY(c)];
	assert(to == 0 || to == c);
	if
	:: !RUNS(MAP(c)) -> goto out
	:: else
	fi;
	lookup(MAP(c), c, e);
	if
	:: e < NONE ->
		assert(id[e] == c); /* writes lost, awaited */
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
out:	atomic { socks_b[KEY(c)] = (socks_b[KEY(c)] == c -> 0 : socks_b[KEY(c)]) }
}

/* An accepted connection, of an agent's or the thief's. */
proctype Backend(byte c) {
	byte f, e, m;
	bool mine, last, joined;

	do
	:: m == AGENTS || joined -> break
	:: m < AGENTS && !joined ->
		if
		:: !RUNS(m) -> goto next
		:: else
		fi;
		f = announced[m * SOCKS + IDENT(c)];
		if
		:: f == 0 -> goto next
		:: else
		fi;
#ifdef MUTANT_BOTH_TAKE_OVER
		mine = true;
		announced[m * SOCKS + IDENT(c)] = 0;
#else
		atomic { mine = announced[m * SOCKS + IDENT(c)] != 0; announced[m * SOCKS + IDENT(c)] = 0 }
#endif
		if
		:: !mine -> goto next
		:: else
		fi;
		lookup(m, f, e);
		if
		:: e == NONE -> goto next
		:: else
		fi;
		atomic {
			if
			:: socks_b[KEY(f)] == 0 -> socks_b[KEY(f)] = c; joined = true /* BPF_NOEXIST */
			:: else
			fi
		}
		if
		:: !joined -> release(e)
		:: joined && c == THIEF
		:: joined && c != THIEF ->
#ifdef READS
			run Reader(c);
#endif
			run Closer(c)
		fi;
next:		atomic { m++; f = 0; e = 0; mine = false; last = false }
	od
}

/* The writer of a connection, which holds nothing, between two of its writes. */
proctype Asker(byte c) {
	byte e, had;
	bool last;

	if
	:: !RUNS(MAP(c)) -> goto out
	:: else
	fi;
	lookup(MAP(c), c, e);
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

/* Makes the connections from c to max. */
proctype Agent(byte c, max) {
	byte e, to;
	bool mine, last;

	do
	:: c > max || KILLED(MAP(c)) -> break
	:: c <= max && !KILLED(MAP(c)) ->
#if PODS > 1
		if
		:: pod_of[c] = 0
		:: pod_of[c] = 1
		fi;
#endif
		/* announce: a flow where there is room, its end, then the identity. */
		atomic {
			if
			:: id[MAP(c) * 2] == 0 -> e = MAP(c) * 2
			:: ENTRIES > 1 && id[MAP(c) * 2] != 0 && id[MAP(c) * 2 + 1] == 0 -> e = MAP(c) * 2 + 1
			:: else -> e = NONE /* map_full: TCP */
			fi;
			if
			:: e < NONE -> id[e] = c; ends[e] = 0
			:: else
			fi
		}
		if
		:: e < NONE ->
			atomic {
				if
				:: socks_a[KEY(c)] == 0 -> socks_a[KEY(c)] = c /* BPF_NOEXIST */
				:: else
				fi
			}
			ends[e] = 2;
			announced[MAP(c) * SOCKS + IDENT(c)] = c;
			run Backend(c);
#ifdef ASKS
			run Asker(c);
#endif
			/* A write: sl_msg's redirect. */
			to = socks_b[KEY(c)];
			assert(to == 0 || to == c);
			/* on_state: who deletes the announcement has its share. */
			if
			:: !RUNS(MAP(c)) -> goto ended
			:: else
			fi;
			atomic {
				mine = announced[MAP(c) * SOCKS + IDENT(c)] == c;
				announced[MAP(c) * SOCKS + IDENT(c)] = (mine -> 0 : announced[MAP(c) * SOCKS + IDENT(c)])
			}
			if
			:: mine -> release(e)
			:: else
			fi;
			release(e);
ended:			atomic { socks_a[KEY(c)] = (socks_a[KEY(c)] == c -> 0 : socks_a[KEY(c)]) }
		:: else -> run Backend(c)
		fi;
		atomic { c++; e = 0; to = 0; mine = false; last = false }
	od
}

/* When nothing can happen any more. */
active proctype Judge() {
	byte i, m;

	timeout;
	d_step {
		do
		:: i == AGENTS * SOCKS -> break
		:: i < AGENTS * SOCKS ->
			m = i / SOCKS;
			assert(socks_a[i] == 0 && socks_b[i] == 0);
			assert(!RUNS(m) || (announced[i] == 0 && id[m * 2] == 0 && id[m * 2 + 1] == 0));
			i++
		od
	}
}

#ifdef CRASHES
active proctype Crash() {
	killed = true;
	detached = true
}
#endif

init {
	atomic {
#ifdef TOGETHER
		run Agent(1, 1);
		run Agent(2, (AGENTS > 1 -> CONNS - 1 : CONNS));
#else
		run Agent(1, (AGENTS > 1 -> CONNS - 1 : CONNS));
#endif
#if AGENTS > 1
		run Agent(CONNS, CONNS);
#endif
#ifdef STEALS
		run Backend(THIEF)
#endif
	}
}
