package main

import (
	"bytes"
	"context"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// apiHandler serves the vSphere API: the simulator behind HTTP.
func (lab *Lab) apiHandler(endpoint *url.URL) http.Handler {
	lab.service.Listen = listenURL(endpoint)
	manager := lab.registry.SessionManager()
	manager.ServiceHostName = endpoint.Host
	manager.ValidLogin = lab.accounts.validLogin
	lab.service.RegisterSDK(lab.registry, lab.registry.Path+"/vimService")
	lab.registry.Cookie = lab.requests.enter
	mux := http.NewServeMux()
	mux.HandleFunc("/sdk", lab.serveSOAP)
	mux.HandleFunc("/sdk/vimService", lab.serveSOAP)
	mux.HandleFunc("/sdk/vimServiceVersions.xml", lab.serveVersions)
	policies := lab.policyService()
	lab.service.RegisterSDK(policies, policies.Path+"/sdk")
	mux.HandleFunc(policies.Path, lab.serveSOAP)
	mux.HandleFunc(policies.Path+"/sdk", lab.serveSOAP)
	lab.serveREST(mux, endpoint)
	return mux
}

func (lab *Lab) serveSOAP(w http.ResponseWriter, r *http.Request) {
	session := ""
	if cookie, err := r.Cookie(soap.SessionCookieName); err == nil {
		session = cookie.Value
		lab.sessions.enter(session)
		defer lab.sessions.leave(session)
	}
	defer lab.requests.begin(r, session)()
	var trouble trouble
	if lab.faults.dropping() && !lab.accounts.isTools(lab.sessions.user(session)) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		trouble = lab.faults.dropped(methodName(body))
		if trouble.call {
			trouble.hangUp(r)
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
	}
	answer := &answer{header: w.Header(), status: http.StatusOK}
	lab.service.ServeSDK(answer, r)
	if trouble.answer {
		trouble.hangUp(r)
	}
	if answer.status == http.StatusInternalServerError {
		answer.body = explain(answer.body)
	}
	if locale := lab.sessions.locale(session); locale != "" && !strings.HasPrefix(locale, "en") {
		answer.body = faultText.ReplaceAll(answer.body, []byte("<$1>Der Vorgang ist fehlgeschlagen.</$2>"))
	}
	w.Header().Set("Content-Type", "text/xml; charset=utf-8")
	w.WriteHeader(answer.status)
	_, _ = w.Write(answer.body) // the client may be gone
}

// hangUp cuts the connection; with hold, after the client has given up.
func (t trouble) hangUp(r *http.Request) {
	if t.hold {
		_, _ = io.Copy(io.Discard, r.Body) // what is left of it hides that the client hangs up
		<-r.Context().Done()
	}
	panic(http.ErrAbortHandler)
}

// requests makes the HTTP request available to a call, which the simulator does not, so that a
// waiting call ends when its client disconnects. The session cookie includes the request's number.
type requests struct {
	sync.Mutex
	last    int
	running map[string]context.Context
}

func newRequests() *requests { return &requests{running: map[string]context.Context{}} }

// begin registers the request. The returned function removes it.
func (q *requests) begin(r *http.Request, session string) func() {
	q.Lock()
	defer q.Unlock()
	q.last++
	number := strconv.Itoa(q.last)
	q.running[number] = r.Context()
	r.Header.Set("Cookie", soap.SessionCookieName+"="+session+"|"+number)
	return func() {
		q.Lock()
		defer q.Unlock()
		delete(q.running, number)
	}
}

// enter is called by the simulator to get the session's key.
func (q *requests) enter(ctx *simulator.Context) string {
	session, number, _ := strings.Cut(simulator.HTTPCookie(ctx), "|")
	q.Lock()
	defer q.Unlock()
	if request := q.running[number]; request != nil {
		ctx.Context = request
	}
	return session
}

// answer buffers the simulator's answer until it is complete.
type answer struct {
	header http.Header
	status int
	body   []byte
}

func (a *answer) Header() http.Header    { return a.header }
func (a *answer) WriteHeader(status int) { a.status = status }
func (a *answer) Write(data []byte) (int, error) {
	a.body = append(a.body, data...)
	return len(data), nil
}

// methodName is the name of the first element in the envelope's body.
func methodName(envelope []byte) string {
	decoder := xml.NewDecoder(bytes.NewReader(envelope))
	inBody := false
	for {
		token, err := decoder.Token()
		if err != nil {
			return ""
		}
		if start, ok := token.(xml.StartElement); ok {
			if inBody {
				return start.Name.Local
			}
			inBody = start.Name.Local == "Body"
		}
	}
}

var (
	faultType    = regexp.MustCompile(`<detail>\s*<[^>]*xsi:type="(\w+)"`)
	faultDetail  = regexp.MustCompile(`(?s)<faultMessage>.*?<message>(.*?)</message>`)
	faultReason  = regexp.MustCompile(`(?s)<reason>(.*?)</reason>`)
	faultText    = regexp.MustCompile(`(?s)<(faultstring|localizedMessage|message)>[^<]*</(faultstring|localizedMessage|message)>`)
	privilegeRef = regexp.MustCompile(`(?s)<privilegeId>(.*?)</privilegeId>`)
)

// explain sets the text of a fault where the simulator leaves it empty, which vCenter never does.
func explain(envelope []byte) []byte {
	const empty = "<faultstring></faultstring>"
	if !bytes.Contains(envelope, []byte(empty)) {
		return envelope
	}
	text := "A general system error occurred."
	if found := faultDetail.FindSubmatch(envelope); found != nil {
		text = string(found[1])
	} else if found := faultReason.FindSubmatch(envelope); found != nil {
		text = string(found[1])
	} else if found := faultType.FindSubmatch(envelope); found != nil {
		text = explainType(string(found[1]), envelope)
	}
	return bytes.Replace(envelope, []byte(empty), []byte("<faultstring>"+text+"</faultstring>"), 1)
}

func explainType(name string, envelope []byte) string {
	if name == "NoPermission" {
		f := &types.NoPermission{}
		if found := privilegeRef.FindSubmatch(envelope); found != nil {
			f.PrivilegeId = string(found[1])
		}
		return describe(f)
	}
	if text := plainMessages[strings.TrimSuffix(name, "Fault")]; text != "" {
		return text
	}
	return name
}

// serveVersions returns the versions of the API that clients may use.
func (lab *Lab) serveVersions(w http.ResponseWriter, r *http.Request) {
	lab.calls.add("", "vimServiceVersions")
	if trouble := lab.faults.dropped("vimServiceVersions"); trouble.answer {
		trouble.hangUp(r)
	}
	version := lab.description.About.APIVersion
	var older strings.Builder
	for _, v := range []string{"8.0.2.0", "8.0.1.0", "8.0.0.1", "7.0.3.0", "7.0.2.0", "7.0.1.0", "7.0", "6.9.1", "6.8.7", "6.7.3", "6.7.2", "6.7.1", "6.7", "6.5", "6.0", "5.5"} {
		if lab.atLeast(v) && v != version {
			fmt.Fprintf(&older, "   <version>%s</version>\n", v)
		}
	}
	w.Header().Set("Content-Type", "text/xml; charset=utf-8")
	fmt.Fprintf(w, `<?xml version="1.0" encoding="UTF-8" ?>
<namespaces version="1.0">
 <namespace>
  <name>urn:vim25</name>
  <version>%s</version>
  <priorVersions>
%s  </priorVersions>
 </namespace>
</namespaces>
`, version, older.String())
}
