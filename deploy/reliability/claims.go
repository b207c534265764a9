// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"

	"github.com/sluice-gateway/sluice/bench/figures"
)

// claim is something that holds, and the test that would find it wrong.
type claim struct {
	text string
	pkg  string // of the test, inside of the module
	test string
	// but says where the kernel, or crypto/tls, falls short.
	but string
}

var claims = []claim{
	{"Every byte arrives in order, at its own connection, and both ends of a stream are as they were made.",
		"agent", "TestEveryByteArrivesInOrderAndAtItsOwnConnection", ""},
	{"The same of the splice alone, with writes of random sizes.",
		"agent/splice", "TestStreamsArriveWholeAndInOrder", ""},
	{"And where the maps are full: connections beyond are ordinary TCP.",
		"agent/splice", "TestFullMapsMeanTCP", ""},
	{"Bytes that are written before the backend has accepted stay in front.",
		"agent/splice", "TestFirstBytesKeepTheirPlace", ""},
	{"A reader that stalls holds up its sender, not the node.",
		"agent", "TestAStalledReaderHoldsUpTheSender", ""},
	{"What lies redirected and unread is bounded.",
		"agent/splice", "TestStalledReaderIsBounded",
		"the kernel bounds nothing there; the splice counts what recvmsg(2) returns"},
	{"A backend that turns to splice(2) reads the stream in order, or is reset.",
		"agent/splice", "TestReaderThatTurnsToSpliceGetsNoByteOutOfOrder",
		"the kernel's splice(2) does not see redirected bytes, so a connection of such a backend may be reset once; one that turns to TCP_ZEROCOPY_RECEIVE is not seen, and waits"},
	{"Whatever way a backend reads in (recvmsg(2) and its flags and options, poll(2), select(2), epoll(7), io_uring, splice(2), FIONREAD, another process), it gets every byte in order, or its connection ends.",
		"agent/splice", "TestEveryWayToRead",
		"those that redirected bytes do not honor stay TCP, and may fail once when they turn to it; one that turns to SO_PEEK_OFF may peek at bytes twice before it is reset; members that read a blocking socket may get EAGAIN, so their endpoints join no more"},
	{"The same addresses and ports in another network namespace get nothing.",
		"agent/splice", "TestSameAddressesInAnotherNamespaceGetNothing", ""},
	{"Another program's sockmap that has or gets a socket of a connection changes no byte.",
		"agent/splice", "TestForeignSockmaps", ""},
	{"A backend that is restarted at its port, or replaced by one that listens there already, gets and sends no wrong byte, and new connections to it are spliced.",
		"agent/splice", "TestBackendIsRestartedAtItsPort", ""},
	{"Gateways beside each other, and one in front of another, carry every byte in order, and the end of one is that of its own connections only.",
		"cmd/sluice", "TestGatewaysBesideAndBehindEachOther", ""},
	{"In a model, every interleaving keeps bytes in order and at their own connection, loses none without an error, and nobody waits for ever.",
		"bpf/model", "check",
		"not in the model are three connections at the same time to two backends, or together with a reader, a thief or a kill, an agent that closes on what the backend wrote, sizes, want of memory, and FIONREAD"},
	{"Debian's 6.12 splices, on amd64 and arm64, and its 6.1 refuses cleanly and relays the same streams whole; on all they go on when the clock jumps by days.",
		"deploy/kernels", "TestKernels", "6.1 lacks the tracepoint that the splice counts reads by, and has relay mode only; of arm64 the machine is emulated"},
	{"A port that is used again at once mixes no connections.",
		"agent/splice", "TestReusedPortsDoNotMixConnections", ""},
	{"A gateway that is killed looks finished to nobody, and another one serves at once.",
		"cmd/sluice", "TestAKilledGatewayLooksFinishedToNobody",
		"crypto/tls takes a bare FIN between two records for an end; the socket below it returns an error of its own"},
	{"A successor takes over without a connection refused, reset or wrong.",
		"cmd/sluice", "TestSuccessorsRefuseNobody", ""},
	{"After an hour of idle and busy connections, while others come and go, a gateway holds what it held before.",
		"cmd/sluice", soak,
		"200 new connections a second were asked for; the machine's two processors had clients and backend on them, too"},
	{"Certificates rotate without a failed handshake, a dropped connection, or a key of another version.",
		"cmd/sluice", "TestRotationByFileFailsNoHandshake", ""},
	{"A certificate or key that is bad leaves the last good one served, and the listeners beside it alone.",
		"cmd/sluice", "TestABadCertificateLeavesTheLastGoodOneServed", ""},
	{"What expired, is not valid yet or is not for servers is served with a warning, for clients to decide.",
		"cmd/sluice", "TestACertificateThatClientsRefuseIsServedWithAWarning", ""},
	{"A gateway that the kernel kills for want of memory looks finished to nobody, either.",
		"cmd/sluice", "TestAGatewayOutOfMemoryLooksFinishedToNobody", ""},
	{"A private key is in no status, metric, log, error, file or dump.",
		"cmd/sluice", "TestAPrivateKeyIsNowhere",
		"Go's collector clears no memory, so copies stay in that of the process after the Secret is gone; nobody but root may read it, and it leaves no core"},
	{"A full disk stops the access log only, which is said and counted.",
		"cmd/sluice", "TestAFullDiskStopsTheAccessLogOnly", ""},
	{"Endpoints, certificates and routes change under load, and no connection is dropped.",
		"deploy/e2e", "TestChurnDropsNobody", ""},
	{"Grants come and go under load: nothing is served without one.",
		"deploy/e2e", "TestGrantsComeAndGo", ""},
	{"A flood of handshakes, twice what can be answered, ends no connection and keeps nobody out of other listeners, nor those from other networks out of the same.",
		"cmd/sluice", "TestAFloodOfHandshakesWaitsForItself",
		"clients, flood, gateway and backend share two processors here. Established connections keep nine tenths of what they carry beside the same flood at another server where it is of RSA-4096, and about half where it is of ECDSA: to accept so many and to read their ClientHellos takes the rest, and p99 of handshakes at the other listener is several times what it is without a flood"},
	{"More clients at once than the accept queue holds are served in the end.",
		"cmd/sluice", "TestABurstIsServedInTheEnd", afterwards},
	{"Connections that fall silent together, for longer than it takes to give up a peer, stay.",
		"cmd/sluice", "TestManyThatFallSilentTogetherStay", ""},
	{"Connections that come and go leave nothing.", "cmd/sluice", "TestChurnLeavesNothing", afterwards},
	{"When the local ports towards an endpoint are used up, clients are told at once, and other endpoints are served. From a second address there are as many again.",
		"cmd/sluice", "TestPortsTowardsAnEndpointRunOut",
		"1,000 ports for each; 25,000 connections of one process need 50,000 descriptors, and this machine has 20,000"},
	{"Networks that lose packets, are slow, have small packets, or let nothing through for a while: every byte arrives.",
		"cmd/sluice", "TestBadNetworksLoseNoByte", ""},
	{"Networks that deliver packets late, after later ones, or twice, on both legs: every byte arrives, also what is spliced past them.",
		"cmd/sluice", "TestPacketsThatAreLateOvertakenOrTwiceLoseNoByte", ""},
	{"Backends that never answer, reset at once or midway, are slow, end one direction first, or die: nothing looks finished that they have not finished, the access log and the metrics say what happened, and nothing is left.",
		"cmd/sluice", "TestABackendThatFailsLooksFinishedToNobody",
		"a process that is killed when it has read everything ends its TCP like one that has finished; nobody can tell the two apart"},
	{"As many connections as descriptors allow need less than a cgroup of 256 MiB has.", "cmd/sluice", "TestManyConnectionsStayBelowALimitOfMemory", ""},
	{"Where the memory of the cgroup is too little, new connections are shed, and those that are there go on.",
		"cmd/sluice", "TestAFullGatewayShedsNewConnections",
		"this machine counts by cgroups of version 1, which leave out the buffers of TCP"},
	{"Maps that an agent of another version has pinned are replaced, or left alone while it lives.",
		"agent/splice", "TestPinsOfAnotherVersionAreReplaced",
		"the other version is made up; the next row has a real one"},
	{"From another version to this one and back: no connection is refused, reset or wrong, and both splice.",
		"cmd/sluice", upgrade,
		"no release came before this one; the other version is an earlier commit, whose maps and programs are others"},
	{"Clients that never finish a handshake keep nobody out, and leave nothing.",
		"cmd/sluice", "TestClientsThatNeverFinishAHandshakeKeepNobodyOut", afterwards},
	{"Each of BoringSSL's tests of servers ends as with crypto/tls alone.",
		"deploy/protocol", "TestBoGo",
		"those that do not pass fail with crypto/tls alone, too, 52 of the 89 because they are of TLS 1.0 or 1.1, the others because crypto/tls does not what BoringSSL does (key exchange by RSA, its session tickets, its strictness with some malformed messages); that a test fails where it should is compared, not by which of BoringSSL's errors (-loose-errors); the families of DTLS, QUIC and asynchronous I/O are left out"},
	{"Each conversation of tlsfuzzer ends as with crypto/tls alone, or differs for a reason that is listed.",
		"deploy/protocol", tlsfuzzer,
		"DIR is a path to a clone of github.com/tlsfuzzer/tlsfuzzer, which is not on PyPI; the commit of figures that name none was not kept; not run are five scripts that are made to measure times (test-bleichenbacher-*, test-lucky13, test-tls13-minerva) and test-fuzzed-plaintext, whose conversations are others each time; of the three scripts that hold 1,000 conversations by default, chosen at random, 200 are held, with tlsfuzzer's own certificates of clients 10; bombs of compressed certificates are left out"},
	{"OpenSSL, GnuTLS, curl, Go, Java, Python and Node handshake in each version, with each kind of certificate and key exchange.",
		"deploy/protocol", "TestInterop", "Python cannot be told X25519; its OpenSSL offers that first"},
	{"No scan of sslyze finds a weakness.",
		"deploy/protocol", "TestSSLyze", ""},
	{"Floods of KeyUpdates, of empty and tiny records, and of alerts are ended by a limit, or cost less than ten times the processor time that they cost the attacker.",
		"deploy/protocol", "TestFloods",
		"without the record loop crypto/tls ends no flood of KeyUpdates with a byte of data after each"},
	{"A browser shows every connection by its path, certificates by the days that are left, and what is wrong with what mends it, so that it can be read: on a telephone and on a desk, in light and dark.",
		"cmd/sluice", "TestThePageInABrowser", ""},
	{"No path of the admin socket, the page among them, shows a private key.",
		"cmd/sluice", "TestNoKeyIsShown", ""},
	{"Each panel of the dashboard shows a gateway that runs; what is wrong with it fires its alert, and what is well no critical one.",
		"cmd/sluice", "TestTheDashboardShowsARunningGateway", "causes need not last here; promtool's tests hold the rules to the times"},
	{"The plugin of kubectl tells of every node, and which one does not answer.",
		"deploy/e2e", "TestThePluginAsksAllNodes", ""},
	{"Rollouts refuse nobody.", "deploy/e2e", "TestRolloutsRefuseNobody", ""},
	{"An agent's pod that is deleted is replaced without a refusal.", "deploy/e2e", "TestADeletedPodIsReplacedWithoutRefusal", ""},
	{"An agent of a cluster that is killed looks finished to nobody, client or pod, and is there again.", "deploy/e2e", "TestAgentKilled", ""},
	{"A node that is cut off loses its addresses to another, whose own connections do not notice.", "deploy/e2e", "TestNodeCutOff", ""},
	{"Without controllers a node serves on.", "deploy/e2e", "TestControllersAway", ""},
	{"Without an API server a node serves on.", "deploy/e2e", "TestAPIServerAway", ""},
	{"With an API server that does not answer, too.", "deploy/e2e", "TestAPIServerFrozen", ""},
}

// afterwards is of tests that look as soon as descriptors and goroutines are back.
const afterwards = "memory is given back later, in minutes: see the hour"

// soak has a target of its own: how long it lasts is a variable.
const soak = "TestASoakedGatewayHoldsNothingBack"

// upgrade has one, too: it needs the other version.
const upgrade = "TestAnUpgradeAndItsRollbackRefuseNobody"

// tlsfuzzer is another's, and no registry has it: whoever runs it says where it is.
const tlsfuzzer = "TestTLSFuzzer"

// runs are the entries of the claim's test and of its subtests.
func (c claim) runs(entries []figures.Entry) (all []figures.Entry) {
	for _, e := range entries {
		if e.Package == c.pkg && (e.Test == c.test || strings.HasPrefix(e.Test, c.test+"/")) {
			all = append(all, e)
		}
	}
	return all
}

func (c claim) says() string {
	if c.but == "" {
		return c.text
	}
	return c.text + " But: " + c.but + "."
}

// command runs the test in its full size.
func (c claim) command() string {
	switch {
	case c.pkg == "bpf/model":
		return "`make model`"
	case c.pkg == "deploy/kernels":
		return "`make test-kernels FIGURES=deploy/reliability/figures`"
	case c.test == soak:
		return "`make test-soak`"
	case c.test == upgrade:
		return "`make upgrade BEFORE=VERSION`"
	case c.test == tlsfuzzer:
		return fmt.Sprintf("`make protocol TLSFUZZER=DIR TESTS='%s$'`", c.test)
	case c.pkg == "deploy/protocol":
		return fmt.Sprintf("`make protocol TESTS='%s$'`", c.test)
	case c.pkg == "deploy/e2e":
		return fmt.Sprintf("`SLUICE_LONG=1 deploy/e2e/run.sh -test.run '%s$'`", c.test)
	}
	return fmt.Sprintf("`SLUICE_LONG=1 go test -count=1 -timeout 60m -run '%s$' ./%s`", c.test, c.pkg)
}
