package inject

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"time"

	"go.uber.org/zap"

	"gatehouse/panics"
)

// maxReview bounds a request, in bytes: a pod is at most 1.5 MiB in etcd, and its review quotes it once.
const maxReview = 3 << 20

// review is admission.k8s.io/v1's AdmissionReview, as far as it is read or written here.
type review struct {
	APIVersion string          `json:"apiVersion"`
	Kind       string          `json:"kind"`
	Request    *reviewRequest  `json:"request,omitempty"`
	Response   *reviewResponse `json:"response,omitempty"`
}

type reviewRequest struct {
	UID       string `json:"uid"`
	Operation string `json:"operation"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Resource  struct {
		Group    string `json:"group"`
		Version  string `json:"version"`
		Resource string `json:"resource"`
	} `json:"resource"`
	SubResource string          `json:"subResource"`
	Object      json.RawMessage `json:"object"`
}

type reviewResponse struct {
	UID              string            `json:"uid"`
	Allowed          bool              `json:"allowed"`
	Status           *reviewStatus     `json:"status,omitempty"`
	Patch            []byte            `json:"patch,omitempty"` // base64 in JSON
	PatchType        string            `json:"patchType,omitempty"`
	Warnings         []string          `json:"warnings,omitempty"`
	AuditAnnotations map[string]string `json:"auditAnnotations,omitempty"`
}

type reviewStatus struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
	Reason  string `json:"reason,omitempty"`
}

// The webhook's paths.
const (
	pathInject = "/inject"
	// pathLabel is asked about pods of namespaces whose label says neither true nor false. A review does not show that label.
	pathLabel = "/namespace-label"
)

// handler answers the API server.
func (i *Injector) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("POST "+pathInject, i.answered(func(r *reviewRequest) verdict {
		p, err := readPod(r.Object)
		if err != nil {
			return refusal(reasonRequest, "%v", err)
		}
		return i.settings.Load().judge(r.Namespace, p)
	}))
	mux.Handle("POST "+pathLabel, i.answered(func(r *reviewRequest) verdict {
		return refusal(reasonLabel, "the label %s of namespace %q says neither \"true\" nor \"false\", so that it is not clear whether its pods get a sidecar", Label, r.Namespace)
	}))
	return mux
}

// answered makes a handler of a verdict. Whatever goes wrong is no admission: the answer is an HTTP error, which the webhook's
// failurePolicy makes a refusal of, or a refusal itself.
func (i *Injector) answered(judge func(*reviewRequest) verdict) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		// The port is open to the cluster: who is slow does not hold a place for long, and who waits for one not longer than the API server does.
		_ = http.NewResponseController(w).SetReadDeadline(began.Add(i.start.Timeout))
		wait, cancel := context.WithTimeout(r.Context(), i.start.Timeout)
		defer cancel()
		select {
		case i.slots <- struct{}{}:
			defer func() { <-i.slots }()
		case <-wait.Done():
			i.metrics.pods.WithLabelValues(failed, reasonBusy).Inc()
			http.Error(w, "busy", http.StatusServiceUnavailable)
			return
		}
		request, code, err := readReview(w, r)
		if err != nil {
			i.metrics.pods.WithLabelValues(failed, reasonRequest).Inc()
			i.log.Error("a request that is no review of a pod", zap.String("from", r.RemoteAddr), zap.Error(err))
			http.Error(w, err.Error(), code)
			return
		}
		v := protected(judge, request)
		i.metrics.pods.WithLabelValues(v.result, v.reason).Inc()
		i.metrics.seconds.Observe(time.Since(began).Seconds())
		i.say(request, v, time.Since(began))
		out, err := v.response(request.UID)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Write(out)
	})
}

// protected is judge, with a failure in the place of a panic and of no verdict.
func protected(judge func(*reviewRequest) verdict, r *reviewRequest) (v verdict) {
	defer func() {
		if p := recover(); p != nil {
			panics.Report("injecting into a pod", p)
			v = verdict{result: failed, reason: reasonPanic, message: "the injector failed; its log says where"}
		}
	}()
	if v = judge(r); v.result == "" {
		v = verdict{result: failed, message: "the injector has no verdict"}
	}
	return v
}

func readReview(w http.ResponseWriter, r *http.Request) (*reviewRequest, int, error) {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return nil, http.StatusUnsupportedMediaType, errors.New("the body has to be application/json")
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxReview))
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		return nil, http.StatusRequestEntityTooLarge, fmt.Errorf("the review is larger than %d bytes", maxReview)
	}
	if err != nil {
		return nil, http.StatusBadRequest, fmt.Errorf("reading the review: %w", err)
	}
	var in review
	if err := json.Unmarshal(body, &in); err != nil {
		return nil, http.StatusBadRequest, fmt.Errorf("reading the review: %w", err)
	}
	if in.APIVersion != "admission.k8s.io/v1" || in.Kind != "AdmissionReview" || in.Request == nil || in.Request.UID == "" {
		return nil, http.StatusBadRequest, fmt.Errorf("%q, %q is no AdmissionReview of admission.k8s.io/v1 with a request", in.APIVersion, in.Kind)
	}
	what := in.Request.Resource
	if what.Group != "" || what.Version != "v1" || what.Resource != "pods" || in.Request.SubResource != "" || in.Request.Operation != "CREATE" {
		return nil, http.StatusBadRequest, fmt.Errorf("%s of %s/%s %s %s is not the creation of a pod: mend the rules of the webhook", in.Request.Operation, what.Group, what.Version, what.Resource, in.Request.SubResource)
	}
	return in.Request, http.StatusOK, nil
}

// Kubernetes shows 256 bytes of a warning, and 4096 of all. A message may quote annotations, which have no bound of their own.
const maxWarning, maxWarnings, maxMessage = 256, 8, 2048

// response is the review that answers. Only a pod that is injected or skipped is allowed.
func (v verdict) response(uid string) ([]byte, error) {
	out := reviewResponse{UID: uid, Allowed: v.result == injected || v.result == skipped, AuditAnnotations: map[string]string{"result": v.result}}
	if v.reason != "" {
		out.AuditAnnotations["reason"] = v.reason
	}
	for _, text := range v.warnings[:min(len(v.warnings), maxWarnings)] {
		out.Warnings = append(out.Warnings, "gatehouse: "+text[:min(len(text), maxWarning-len("gatehouse: "))])
	}
	v.message = v.message[:min(len(v.message), maxMessage)]
	switch v.result {
	case refused:
		out.Status = &reviewStatus{Code: http.StatusUnprocessableEntity, Reason: "Invalid", Message: "gatehouse: " + v.message}
	case failed:
		out.Status = &reviewStatus{Code: http.StatusInternalServerError, Reason: "InternalError", Message: "gatehouse: " + v.message}
	}
	if out.Allowed && len(v.patch) > 0 {
		patch, err := json.Marshal(v.patch)
		if err != nil {
			return nil, err
		}
		out.Patch, out.PatchType = patch, "JSONPatch"
	}
	return json.Marshal(review{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview", Response: &out})
}

// say writes the line of a pod.
func (i *Injector) say(r *reviewRequest, v verdict, took time.Duration) {
	name := r.Name
	if name == "" {
		var p struct {
			Metadata struct {
				GenerateName string `json:"generateName"`
			} `json:"metadata"`
		}
		_ = json.Unmarshal(r.Object, &p) // for the log alone
		name = p.Metadata.GenerateName + "*"
	}
	fields := []zap.Field{zap.String("result", v.result), zap.String("reason", v.reason), zap.String("namespace", r.Namespace), zap.String("pod", name),
		zap.String("uid", r.UID), zap.Duration("took", took), zap.Strings("warnings", v.warnings)}
	switch v.result {
	case injected, skipped:
		i.log.Info("pod", fields...)
	case refused:
		i.log.Warn("pod", append(fields, zap.String("message", v.message[:min(len(v.message), maxMessage)]))...)
	default:
		i.log.Error("pod", append(fields, zap.String("message", v.message[:min(len(v.message), maxMessage)]))...)
	}
}
