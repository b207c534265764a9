// SPDX-License-Identifier: Apache-2.0

// Command dns answers every question for an address with the client's own, like
// the "whoami" that the conformance suite's UDP backend is configured for.
// Its arguments are the ones of the DNS server that it stands in for, unused.
package main

import (
	"fmt"
	"net"
	"os"

	"github.com/miekg/dns"
)

func main() {
	dns.HandleFunc(".", answer)
	if err := dns.ListenAndServe(":53", "udp", nil); err != nil {
		fmt.Fprintln(os.Stderr, "dns:", err)
		os.Exit(1)
	}
}

func answer(w dns.ResponseWriter, question *dns.Msg) {
	reply := new(dns.Msg).SetReply(question)
	if client, ok := w.RemoteAddr().(*net.UDPAddr); ok && len(question.Question) == 1 {
		header := dns.RR_Header{Name: question.Question[0].Name, Class: dns.ClassINET, Ttl: 0}
		if ip := client.IP.To4(); ip != nil {
			header.Rrtype = dns.TypeA
			reply.Answer = append(reply.Answer, &dns.A{Hdr: header, A: ip})
		} else {
			header.Rrtype = dns.TypeAAAA
			reply.Answer = append(reply.Answer, &dns.AAAA{Hdr: header, AAAA: client.IP})
		}
	}
	if err := w.WriteMsg(reply); err != nil {
		fmt.Fprintln(os.Stderr, "dns:", err)
	}
}
