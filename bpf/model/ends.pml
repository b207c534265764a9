/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * How the streams of stream.pml end: the backend closes, the agent resets one that does
 * not see its bytes, or is killed.
 */

#ifndef DOWN
/*
 * judge in blind.go: told of a reader that does not see its bytes, look again in a
 * while, and reset the connection if it has read none since.
 */
active proctype Agent() {
	byte u, r, c;

end:	do
	:: blind ->
		blind = false;
		unread_by();
		atomic {
			if
			:: u > 0 && received == told_at && !over -> reset = true; break
			:: else
			fi
		}
	:: ended || closed -> break
	od
}

inline note_loss() {
	unread_by();
	if
	:: u > 0 && !over -> lost = true
	:: else
	fi
}

/* What on_state notes, and whom it wakes: before its FIN, and when the socket ends. */
inline on_state(is_end) {
#ifdef MUTANT_LOSS_UNSEEN
	skip;
#elif defined(MUTANT_LOSS_SEEN_BEFORE_FIN_ONLY)
	if
	:: !is_end -> note_loss()
	:: else
	fi;
#else
	note_loss();
#endif
	if
	:: (is_end || lost) && awaited -> awaited = false; woken = true
	:: else
	fi;
	atomic { u = 0; r = 0 }
}

/*
 * The backend may end its own direction, and close at any time, with bytes unread.
 * A FIN goes out once, at whichever is first.
 */
proctype Closer() {
	byte u, r, c;

	if
	:: fin_back = true; /* shutdown(2) for writing alone, which loses nothing */
#ifdef MUTANT_LOSS_SEEN_AT_SHUTDOWN
		on_state(false)
#endif
	:: true
	fi;
	if
	:: atomic { !ended && !reset -> closed = true }
	:: ended || reset -> goto end
	fi;
	if
	:: !fin_back -> on_state(false); fin_back = true
	:: else
	fi;
	on_state(true);
	/* TCP's own reset for unread bytes of its own. */
	if
	:: len(tcp) > 0 -> told = true
	:: else
	fi;
end:	skip
}

/* The agent reads the backend's FIN. Later than that it learns only by its own. */
proctype End() {
end:	fin_back;
#ifdef MUTANT_END_READ_LATE
	if
	:: lost -> told = true
	:: else
	fi;
	end_read = true
#else
	end_read = true;
	if
	:: lost -> told = true
	:: else
	fi
#endif
}
#endif

/* The agent is killed: SO_LINGER, set in beforeConnect, makes the end of it a reset. */
proctype Crash() {
	crashed = true;
#ifdef MUTANT_CRASH_ENDS
	fin = true
#else
	reset = true
#endif
}
