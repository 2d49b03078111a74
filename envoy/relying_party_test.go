package envoy_test

import (
	"encoding/json"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"
)

// relyingParty is a client of an OpenID provider, as a web application is one, together with its user's browser.
type relyingParty struct {
	id, secret string
	redirect   string // where the provider sends the browser with a code; nobody needs to listen there
	scope      string // what it asks for when somebody logs in

	meta struct {
		Issuer        string `json:"issuer"`
		Authorization string `json:"authorization_endpoint"`
		Token         string `json:"token_endpoint"`
		Introspection string `json:"introspection_endpoint"`
		Revocation    string `json:"revocation_endpoint"`
		Keys          string `json:"jwks_uri"`
	}
}

// discoveredRedirect is where the provider sends the browser back to.
const discoveredRedirect = "http://localhost:9999/auth/callback"

// grant is what a token endpoint answers.
type grant struct {
	Access  string `json:"access_token"`
	Refresh string `json:"refresh_token"`
	ID      string `json:"id_token"`
	Error   string `json:"error"`
	Details string `json:"error_description"`
}

// discover reads the provider's metadata.
func discover(t *testing.T, issuer, id, secret string) *relyingParty {
	t.Helper()
	rp := &relyingParty{id: id, secret: secret, redirect: discoveredRedirect, scope: "openid"}
	resp, err := http.Get(issuer + "/.well-known/openid-configuration")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&rp.meta); err != nil {
		t.Fatalf("metadata of %s: %v", issuer, err)
	}
	if rp.meta.Issuer != issuer {
		t.Fatalf("metadata of %s are those of %s", issuer, rp.meta.Issuer)
	}
	return rp
}

// ask posts a form to one of the provider's endpoints and returns what it grants. It may be called by any goroutine.
func (rp *relyingParty) ask(endpoint string, form url.Values) (grant, error) {
	req, err := http.NewRequest(http.MethodPost, endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return grant{}, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth(url.QueryEscape(rp.id), url.QueryEscape(rp.secret))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return grant{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return grant{}, err
	}
	var g grant
	if len(body) > 0 {
		err = json.Unmarshal(body, &g)
	}
	if err != nil || resp.StatusCode != http.StatusOK {
		return grant{}, fmt.Errorf("%s to %q: status %d: %s %s", rp.id, form.Get("grant_type"), resp.StatusCode, g.Error, g.Details)
	}
	handedOut.add(g.Access, g.Refresh, g.ID)
	return g, nil
}

// must is ask where nothing may fail.
func (rp *relyingParty) must(t *testing.T, endpoint string, form url.Values) grant {
	t.Helper()
	g, err := rp.ask(endpoint, form)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// clientCredentials is the client's own token (RFC 6749 section 4.4).
func (rp *relyingParty) clientCredentials(t *testing.T) grant {
	t.Helper()
	return rp.must(t, rp.meta.Token, url.Values{"grant_type": {"client_credentials"}, "scope": {"openid"}})
}

func (rp *relyingParty) refresh(t *testing.T, g grant) grant {
	t.Helper()
	return rp.must(t, rp.meta.Token, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {g.Refresh}})
}

// revoke withdraws a token (RFC 7009).
func (rp *relyingParty) revoke(t *testing.T, token string) {
	t.Helper()
	rp.must(t, rp.meta.Revocation, url.Values{"token": {token}})
}

var (
	formTag  = regexp.MustCompile(`(?s)<form[^>]*>`)
	inputTag = regexp.MustCompile(`(?s)<input[^>]*>`)
)

func attribute(tag, name string) string {
	m := regexp.MustCompile(`\s` + name + `="([^"]*)"`).FindStringSubmatch(tag)
	if m == nil {
		return ""
	}
	return html.UnescapeString(m[1])
}

// login walks through the authorization code flow (OpenID Connect Core section 3.1) as a browser does: to the provider, through
// its login form, back with a code, which the client exchanges for tokens.
func (rp *relyingParty) login(t *testing.T, user, password string) grant {
	t.Helper()
	b := &browser{cookies: map[string]string{}}
	page := b.get(t, rp.meta.Authorization+"?"+url.Values{"client_id": {rp.id}, "redirect_uri": {rp.redirect}, "response_type": {"code"},
		"scope": {rp.scope}, "state": {"state-" + user}}.Encode(), rp.redirect)
	end := b.fillIn(t, page, user, password, rp.redirect)
	back := end.at.Query()
	if back.Get("code") == "" || back.Get("state") != "state-"+user {
		t.Fatalf("logging in ends at %s: %.2000s", end.at.Redacted(), end.body)
	}
	return rp.must(t, rp.meta.Token, url.Values{"grant_type": {"authorization_code"}, "code": {back.Get("code")}, "redirect_uri": {rp.redirect}})
}

// fillIn sends a login form.
func (b *browser) fillIn(t *testing.T, from page, user, password, stop string) page {
	t.Helper()
	form := formTag.FindString(from.body)
	if form == "" {
		t.Fatalf("no login form at %s: %d %.2000s", from.at.Redacted(), from.status, from.body)
	}
	fields := url.Values{}
	for _, tag := range inputTag.FindAllString(from.body, -1) {
		if name := attribute(tag, "name"); name != "" {
			fields.Set(name, attribute(tag, "value"))
		}
	}
	fields.Set("username", user)
	fields.Set("password", password)
	action, err := from.at.Parse(attribute(form, "action"))
	if err != nil {
		t.Fatal(err)
	}
	return b.walk(t, http.MethodPost, action.String(), fields, stop)
}

// browser follows redirects and keeps cookies, those marked Secure too: to browsers loopback is a secure origin, to net/http's
// jar it is not.
type browser struct{ cookies map[string]string }

type page struct {
	at     *url.URL
	status int
	header http.Header
	body   string
}

func (b *browser) get(t *testing.T, address, stop string) page {
	t.Helper()
	return b.walk(t, http.MethodGet, address, nil, stop)
}

// walk asks and follows redirects until there is a page, or until it is sent to an address that begins with stop.
func (b *browser) walk(t *testing.T, method, address string, form url.Values, stop string) page {
	t.Helper()
	client := &http.Client{Timeout: time.Minute, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	for range 20 {
		req, err := http.NewRequestWithContext(t.Context(), method, address, strings.NewReader(form.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		if method == http.MethodPost {
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		}
		req.Header.Set("Accept", "text/html")
		for name, value := range b.cookies {
			if host, name, _ := strings.Cut(name, " "); host == req.URL.Host {
				req.Header.Add("Cookie", name+"="+value)
			}
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
		resp.Body.Close()
		for _, c := range resp.Cookies() {
			key := req.URL.Host + " " + c.Name
			if c.MaxAge < 0 || !c.Expires.IsZero() && c.Expires.Before(time.Now()) {
				delete(b.cookies, key)
			} else {
				b.cookies[key] = c.Value
			}
		}
		here := page{at: req.URL, status: resp.StatusCode, header: resp.Header, body: string(body)}
		to, err := resp.Location()
		if err != nil {
			return here
		}
		if stop != "" && strings.HasPrefix(to.String(), stop) {
			here.at = to
			return here
		}
		method, address, form = http.MethodGet, to.String(), nil
	}
	t.Fatalf("more than 20 redirects, the last to %s", address)
	return page{}
}
