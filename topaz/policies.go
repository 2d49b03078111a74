package topaz

import (
	"context"
	"runtime"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"gatehouse/gate"
	"gatehouse/policy"
	"gatehouse/policy/rego"
	"gatehouse/topaz/pb/api"
	"gatehouse/topaz/pb/authorizer"
)

// maxModules bounds the modules of one answer.
const maxModules = 10_000

// Info is about this release.
func (s *authorizerService) Info(context.Context, *authorizer.InfoRequest) (*authorizer.InfoResponse, error) {
	return &authorizer.InfoResponse{Version: s.with.Version, Os: runtime.GOOS, Arch: runtime.GOARCH}, nil
}

// maxInput bounds the text of a query's input.
const maxInput = 256 << 10

// Query evaluates a query that the client wrote, where the node and the key allow it. docs/decisions/0016-queries-of-clients.md.
func (s *authorizerService) Query(ctx context.Context, in *authorizer.QueryRequest) (*authorizer.QueryResponse, error) {
	switch o := in.GetOptions(); {
	case !s.with.Queries:
		return nil, status.Error(codes.Unimplemented, "queries that a client writes are off: listen.directory.queries. Put a rule for it in the policy, and ask that by Is or DecisionTree")
	case !clientOf(ctx).Query:
		return nil, status.Error(codes.PermissionDenied, "this key may not send queries: its scope query lets it")
	case in.Query == "":
		return nil, status.Error(codes.InvalidArgument, "query: is empty")
	case len(in.Input) > maxInput:
		return nil, status.Errorf(codes.InvalidArgument, "input: more than %d bytes", maxInput)
	case len(in.GetPolicyContext().GetPath()) > 4096:
		return nil, status.Error(codes.InvalidArgument, "policy_context.path: is too long")
	case o.GetMetrics(), o.GetInstrument(), o.GetTraceSummary(), o.GetTrace() > authorizer.TraceLevel_TRACE_LEVEL_OFF:
		return nil, status.Error(codes.InvalidArgument, "options: metrics, instrument and traces are not there")
	}
	query := gate.AdHocQuery{Text: in.Query}
	if in.Input != "" {
		if _, err := rego.DecodeJSON([]byte(in.Input), &query.Input); err != nil {
			return nil, status.Errorf(codes.InvalidArgument, "input: is no JSON object: %v", err)
		}
	}
	q, err := s.question(ctx, authorizer.Authorizer_Query_FullMethodName, in.IdentityContext, in.ResourceContext)
	if err != nil {
		return nil, err
	}
	q.Name = in.GetPolicyContext().GetPath()
	answer, results := s.with.Gate.Query(ctx, q, query)
	if !answer.Allow {
		return nil, queryStatus(&answer)
	}
	if results == nil {
		results = []any{}
	}
	response, err := structpb.NewStruct(map[string]any{"result": results})
	if err != nil {
		return nil, status.Errorf(codes.Internal, "the results: %v", err)
	}
	return &authorizer.QueryResponse{Response: response}, nil
}

// queryStatus says why a query, or a decision, has no answer. What is wrong with the query itself is told in full.
func queryStatus(a *gate.Answer) error {
	code := codes.Internal
	switch a.Reason {
	case gate.BadRequest:
		return status.Error(codes.InvalidArgument, a.Diagnostics.Cause.Error())
	case gate.BadCredential, gate.NoCredential:
		code = codes.InvalidArgument
	case gate.UnknownUser, gate.DisabledUser:
		code = codes.PermissionDenied
	case gate.Overloaded:
		code = codes.ResourceExhausted
	case gate.Timeout:
		code = codes.DeadlineExceeded
	case gate.NotReady, gate.Unavailable:
		code = codes.Unavailable
	case gate.PolicyError:
		code = codes.FailedPrecondition
	}
	return status.Errorf(code, "%s: the log has why, decision %s", a.Reason, a.DecisionID)
}

// ListPolicies lists the modules of the active policy, without their text.
func (s *authorizerService) ListPolicies(ctx context.Context, _ *authorizer.ListPoliciesRequest) (*authorizer.ListPoliciesResponse, error) {
	modules, err := s.modules(ctx)
	if err != nil {
		return nil, err
	}
	if len(modules) > maxModules {
		return nil, status.Errorf(codes.ResourceExhausted, "the policy has %d modules, more than %d", len(modules), maxModules)
	}
	out := &authorizer.ListPoliciesResponse{}
	for _, m := range modules {
		out.Result = append(out.Result, moduleMessage(m))
	}
	return out, nil
}

// GetPolicy is one of them.
func (s *authorizerService) GetPolicy(ctx context.Context, in *authorizer.GetPolicyRequest) (*authorizer.GetPolicyResponse, error) {
	modules, err := s.modules(ctx)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(modules, func(m policy.Module) bool { return m.ID == in.Id })
	if i < 0 {
		return nil, status.Errorf(codes.NotFound, "the policy has no module %q", in.Id)
	}
	return &authorizer.GetPolicyResponse{Result: moduleMessage(modules[i])}, nil
}

// modules are those of the active policy, for keys that may see them.
func (s *authorizerService) modules(ctx context.Context) ([]policy.Module, error) {
	if !clientOf(ctx).ReadPolicy {
		return nil, status.Error(codes.PermissionDenied, "this key may not see the policy: its scope read-policy lets it")
	}
	active := s.with.Gate.View().Policy
	if active == nil {
		return nil, status.Error(codes.Unavailable, "no policy is active yet")
	}
	return active.Modules(), nil
}

func moduleMessage(m policy.Module) *api.Module {
	path, root := strings.Join(m.Path, "."), ""
	if len(m.Path) > 0 {
		root = m.Path[0]
	}
	return &api.Module{Id: &m.ID, PackagePath: &path, PackageRoot: &root}
}
