package splice

import (
	"net"
	"testing"
	"time"
)

func TestZZ(t *testing.T) {
	l, _ := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	c, _ := net.Dial("tcp", l.Addr().String())
	b, _ := l.AcceptTCP()
	sendPattern(c, 0, 1000)
	time.Sleep(10 * time.Millisecond)
	a, err := queued(b, 1000)
	t.Log("plain", a, err)
	m, err := newForeignMap()
	if err != nil {
		t.Fatal(err)
	}
	t.Log(insert(m, b))
	a, err = queued(b, 1000)
	t.Log("member of sockmap with sk_msg prog, queued before", a, err)
	sendPattern(c, 0, 1000)
	a, err = queued(b, 2000)
	t.Log("member", a, err)
}
