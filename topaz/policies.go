package topaz

import (
	"context"
	"runtime"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"gatehouse/policy"
	"gatehouse/topaz/pb/api"
	"gatehouse/topaz/pb/authorizer"
)

// maxModules bounds the modules of one answer.
const maxModules = 10_000

// Info is about this release.
func (s *authorizerService) Info(context.Context, *authorizer.InfoRequest) (*authorizer.InfoResponse, error) {
	return &authorizer.InfoResponse{Version: s.with.Version, Os: runtime.GOOS, Arch: runtime.GOARCH}, nil
}

// Query is not served: docs/decisions/0016-no-queries-of-clients.md.
func (s *authorizerService) Query(context.Context, *authorizer.QueryRequest) (*authorizer.QueryResponse, error) {
	return nil, status.Error(codes.Unimplemented, "queries that a client writes are not evaluated: put a rule for it in the policy, and ask that by Is or DecisionTree")
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
