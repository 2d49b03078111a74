package inject

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"gatehouse/upstream"
)

// maxAnswer bounds what the API server answers, in bytes.
const maxAnswer = 4 << 20

// waitAPI is how long one of its answers may take.
const waitAPI = 10 * time.Second

// statusError is an answer of the API server that is no success.
type statusError struct {
	code    int
	message string
}

func (e *statusError) Error() string { return fmt.Sprintf("%d %s", e.code, e.message) }

// server is where the API server is.
func (a API) server() (string, error) {
	if a.Server != "" {
		return strings.TrimSuffix(a.Server, "/"), nil
	}
	host, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
	if host == "" || port == "" {
		return "", fmt.Errorf("there is no KUBERNETES_SERVICE_HOST: the injector runs in a pod, or needs api.server")
	}
	return "https://" + net.JoinHostPort(host, port), nil
}

// call sends one request, and reads the answer into a value. The token is read for each one: the kubelet renews it.
func (a API) call(ctx context.Context, method, path string, body, into any) error {
	ctx, cancel := context.WithTimeout(ctx, waitAPI)
	defer cancel()
	base, err := a.server()
	if err != nil {
		return err
	}
	c, err := upstream.NewClient(upstream.Service{CA: a.CA, BearerFile: a.Token}, base+path, 0)
	if err != nil {
		return err
	}
	defer c.Close()
	var sent []byte
	header := http.Header{"Accept": {"application/json"}}
	if body != nil {
		if sent, err = json.Marshal(body); err != nil {
			return err
		}
		header.Set("Content-Type", "application/json")
	}
	response, err := c.Do(ctx, method, header, sent)
	if err != nil {
		return upstream.Truncate(err)
	}
	defer response.Body.Close()
	text, err := upstream.ReadBody(response, maxAnswer)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		var status struct {
			Message string `json:"message"`
		}
		_ = json.Unmarshal(text, &status) // proxies answer in other ways
		return upstream.Truncate(&statusError{response.StatusCode, status.Message})
	}
	return json.Unmarshal(text, into)
}

func (i *Injector) secretPath() string {
	return "/api/v1/namespaces/" + i.start.Namespace + "/secrets/" + i.start.Secret
}

func (i *Injector) webhookPath() string {
	return "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/" + i.start.Webhook
}

var digits = regexp.MustCompile(`^[0-9]+`)

// nativeSince is Kubernetes 1.29, the first version that has native sidecars without being asked.
const nativeSince = 29

// serverHasNative asks for the API server's version.
func (a API) serverHasNative(ctx context.Context) (bool, string, error) {
	var v struct{ Major, Minor, GitVersion string }
	if err := a.call(ctx, "GET", "/version", nil, &v); err != nil {
		return false, "", fmt.Errorf("asking for the API server's version: %w", err)
	}
	major, err := strconv.Atoi(v.Major)
	minor, err2 := strconv.Atoi(digits.FindString(v.Minor)) // some say 29+
	if err != nil || err2 != nil {
		return false, "", fmt.Errorf("the API server's version is %q.%q, which is none: set sidecar to native or plain", v.Major, v.Minor)
	}
	return major > 1 || major == 1 && minor >= nativeSince, v.GitVersion, nil
}
