// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

const (
	tlsRoutes = "tlsroutes.gateway.networking.k8s.io"
	// childEnv makes the test binary start a server, say its processes and wait.
	childEnv = "SLUICE_TEST_APISERVER_CHILD"
)

var server *Server

func TestMain(m *testing.M) {
	var err error
	if server, err = Start(context.Background(), Options{Without: []string{tlsRoutes}}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if os.Getenv(childEnv) != "" {
		fmt.Println(server.etcd.cmd.Process.Pid, server.api.cmd.Process.Pid, server.dir)
		select {}
	}
	code := m.Run()
	if err := server.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func client(t *testing.T, config *rest.Config) *kubernetes.Clientset {
	t.Helper()
	c, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// namespace makes a namespace for the test.
func namespace(t *testing.T) string {
	t.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"}}
	ns, err := client(t, server.Config()).CoreV1().Namespaces().Create(t.Context(), ns, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return ns.Name
}

func served(t *testing.T, kind string) bool {
	t.Helper()
	c, err := discovery.NewDiscoveryClientForConfig(server.Config())
	if err != nil {
		t.Fatal(err)
	}
	list, err := c.ServerResourcesForGroupVersion("gateway.networking.k8s.io/v1")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range list.APIResources {
		if r.Kind == kind {
			return true
		}
	}
	return false
}

func TestCRDsCanComeLater(t *testing.T) {
	if !served(t, "Gateway") || served(t, "TLSRoute") {
		t.Fatalf("Gateway served: %t, TLSRoute served: %t; want only Gateway", served(t, "Gateway"), served(t, "TLSRoute"))
	}
	if err := server.Install(t.Context(), tlsRoutes); err != nil {
		t.Fatal(err)
	}
	if !served(t, "TLSRoute") {
		t.Error("TLSRoute is not served after its CRD was installed")
	}
	if err := server.Install(t.Context(), "nothing.example.com"); err == nil {
		t.Error("a CRD that does not exist was installed")
	}
}

func TestServiceAccountMayDoWhatItsRoleSays(t *testing.T) {
	ns := namespace(t)
	err := server.Apply(t.Context(), fmt.Appendf(nil, `
apiVersion: v1
kind: ServiceAccount
metadata: {name: reader, namespace: %[1]s}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader, namespace: %[1]s}
rules: [{apiGroups: [""], resources: [secrets], verbs: [list]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: reader, namespace: %[1]s}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}
subjects: [{kind: ServiceAccount, name: reader, namespace: %[1]s}]
`, ns))
	if err != nil {
		t.Fatal(err)
	}
	config, err := server.ServiceAccount(t.Context(), ns, "reader")
	if err != nil {
		t.Fatal(err)
	}
	user, err := server.User("somebody", "some-group")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		who       string
		config    *rest.Config
		namespace string
		allowed   bool
	}{
		{"the ServiceAccount in its namespace", config, ns, true},
		{"the ServiceAccount elsewhere", config, "default", false},
		{"a user without a role", user, ns, false},
		{"an administrator", server.Config(), ns, true},
	} {
		// The API server learns of roles through its own watch.
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
			_, err := client(t, c.config).CoreV1().Secrets(c.namespace).List(t.Context(), metav1.ListOptions{})
			if c.allowed && err == nil || !c.allowed && apierrors.IsForbidden(err) {
				break
			}
			if time.Now().After(deadline) {
				t.Errorf("%s lists Secrets: %v, want allowed: %t", c.who, err, c.allowed)
				break
			}
		}
	}
}

func TestServerGoesAwayAndComesBack(t *testing.T) {
	c := client(t, server.Config())
	ns := namespace(t)

	if err := server.Pause(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := c.CoreV1().Namespaces().Get(ctx, ns, metav1.GetOptions{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("request to a paused server: %v, want no answer", err)
	}
	if err := server.Resume(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.CoreV1().Namespaces().Get(t.Context(), ns, metav1.GetOptions{}); err != nil {
		t.Errorf("request to a resumed server: %v", err)
	}

	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.CoreV1().Namespaces().Get(t.Context(), ns, metav1.GetOptions{}); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("request to a stopped server: %v, want connection refused", err)
	}
	if l, err := net.Listen("tcp", strings.TrimPrefix(server.Config().Host, "https://")); err == nil {
		l.Close()
		t.Error("somebody else got the port of a stopped server")
	}
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.CoreV1().Namespaces().Get(t.Context(), ns, metav1.GetOptions{}); err != nil {
		t.Errorf("a Namespace after the restart: %v", err)
	}
	if !served(t, "Gateway") {
		t.Error("Gateway is not served after the restart")
	}
}

func TestProcessesEndWithTheTestBinary(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"=1")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	said := strings.Fields(line)
	t.Cleanup(func() { os.RemoveAll(said[2]) })
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	for _, s := range said[:2] {
		pid, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
			if state := processState(pid); state == "" || state == "Z" {
				break
			} else if time.Now().After(deadline) {
				t.Errorf("process %d lives on in state %s", pid, state)
				break
			}
		}
	}
}

// processState is the letter of proc_pid_stat(5), nothing for no process.
func processState(pid int) string {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	return strings.Fields(after)[0]
}
