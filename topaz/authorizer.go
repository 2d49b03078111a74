package topaz

import (
	"context"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"gatehouse/gate"
	"gatehouse/identity"
	"gatehouse/input"
	"gatehouse/topaz/pb/api"
	"gatehouse/topaz/pb/authorizer"
)

type authorizerService struct {
	authorizer.UnimplementedAuthorizerServer
	*Service
}

// typeManual is the identity's type where a client named the caller by a text of its own, which is not looked for in the directory.
const typeManual = "IDENTITY_TYPE_MANUAL"

// Is decides each decision of one path. One that could not be made is an error and not a no: a client may ask what it then negates.
func (s *authorizerService) Is(ctx context.Context, in *authorizer.IsRequest) (*authorizer.IsResponse, error) {
	path, err := pathOf(in.PolicyContext)
	if err != nil {
		return nil, err
	}
	q, err := s.question(ctx, authorizer.Authorizer_Is_FullMethodName, in.IdentityContext, in.ResourceContext)
	if err != nil {
		return nil, err
	}
	out := &authorizer.IsResponse{}
	for _, decision := range in.PolicyContext.Decisions {
		is, err := s.ask(ctx, q, path, decision)
		if err != nil {
			return nil, err
		}
		out.Decisions = append(out.Decisions, &authorizer.Decision{Decision: decision, Is: is})
	}
	return out, nil
}

// DecisionTree decides the decisions of every package at and below a path.
func (s *authorizerService) DecisionTree(ctx context.Context, in *authorizer.DecisionTreeRequest) (*authorizer.DecisionTreeResponse, error) {
	root, err := pathOf(in.PolicyContext)
	if err != nil {
		return nil, err
	}
	q, err := s.question(ctx, authorizer.Authorizer_DecisionTree_FullMethodName, in.IdentityContext, in.ResourceContext)
	if err != nil {
		return nil, err
	}
	active := s.with.Gate.View().Policy
	if active == nil {
		return nil, status.Error(codes.Unavailable, "no policy is active yet")
	}
	separator := "."
	if in.Options.GetPathSeparator() == authorizer.PathSeparator_PATH_SEPARATOR_SLASH {
		separator = "/"
	}
	tree, asked := map[string]*structpb.Value{}, 0
	for _, decision := range in.PolicyContext.Decisions {
		for _, path := range active.Rules(root, decision) {
			if asked++; asked > maxAsked {
				return nil, status.Errorf(codes.ResourceExhausted, "policy_context: more than %d decisions: give a longer path", maxAsked)
			}
			if ctx.Err() != nil {
				return nil, status.FromContextError(ctx.Err()).Err()
			}
			is, err := s.ask(ctx, q, path, decision)
			if err != nil {
				return nil, err
			}
			name := strings.Join(path, separator)
			if tree[name] == nil {
				tree[name] = structpb.NewStructValue(&structpb.Struct{Fields: map[string]*structpb.Value{}})
			}
			tree[name].GetStructValue().Fields[decision] = structpb.NewBoolValue(is)
		}
	}
	return &authorizer.DecisionTreeResponse{PathRoot: in.PolicyContext.Path, Path: &structpb.Struct{Fields: tree}}, nil
}

// pathOf is the path of the package that is asked, with its decisions within bounds.
func pathOf(in *api.PolicyContext) ([]string, error) {
	path := strings.FieldsFunc(in.GetPath(), func(r rune) bool { return r == '.' || r == '/' })
	switch {
	case len(path) == 0:
		return nil, status.Error(codes.InvalidArgument, "policy_context.path: is missing")
	case len(in.Path) > 4096 || len(path) > 100:
		return nil, status.Error(codes.InvalidArgument, "policy_context.path: is too long")
	case len(in.Decisions) == 0:
		return nil, status.Error(codes.InvalidArgument, "policy_context.decisions: is empty")
	case len(in.Decisions) > 100:
		return nil, status.Error(codes.InvalidArgument, "policy_context.decisions: more than 100")
	case slices.Contains(in.Decisions, ""):
		return nil, status.Error(codes.InvalidArgument, "policy_context.decisions: holds an empty one")
	}
	return path, nil
}

// question is what the decisions of one call have in common.
func (s *authorizerService) question(ctx context.Context, method string, who *api.IdentityContext, about *structpb.Struct) (*gate.Question, error) {
	client := clientOf(ctx)
	from := gate.Endpoint{Principal: "key/" + client.ID}
	if p, ok := peer.FromContext(ctx); ok {
		from.Address.Host = p.Addr.String()
	}
	q := &gate.Question{Request: gate.QuestionRequest(method, from), About: about.AsMap()}
	name := who.GetIdentity()
	switch kind := who.GetType(); kind {
	case api.IdentityType_IDENTITY_TYPE_NONE:
		anonymous := identity.Anonymous()
		q.Request.As = &anonymous
	case api.IdentityType_IDENTITY_TYPE_JWT:
		q.Token = true
		q.Request.Headers = gate.Headers{{Name: "authorization", Value: "Bearer " + strings.TrimPrefix(name, "Bearer ")}}
	case api.IdentityType_IDENTITY_TYPE_SUB, api.IdentityType_IDENTITY_TYPE_MANUAL:
		if !client.ActAs {
			return nil, status.Error(codes.PermissionDenied, "identity_context: this key may ask about users by their tokens alone; its scope act-as lets it name them")
		}
		if name == "" {
			return nil, status.Error(codes.InvalidArgument, "identity_context.identity: is empty")
		}
		q.Request.As = &input.Identity{Type: identity.TypeSub, Identity: name, Subject: name, Authenticated: true}
		if kind == api.IdentityType_IDENTITY_TYPE_MANUAL {
			q.Request.As = &input.Identity{Type: typeManual, Identity: name, Authenticated: true}
		}
	default:
		return nil, status.Error(codes.InvalidArgument, "identity_context.type: is not one of NONE, SUB, JWT and MANUAL")
	}
	return q, nil
}

// ask has the gate decide. What the policy denies, or does not say, is a no.
func (s *authorizerService) ask(ctx context.Context, base *gate.Question, path []string, decision string) (bool, error) {
	q := *base
	q.Rule, q.Name = append(slices.Clone(path), decision), strings.Join(path, ".")
	a := s.with.Gate.Ask(ctx, &q)
	switch a.Reason {
	case gate.None, gate.Denied, gate.NoDecision:
		return a.Allow, nil
	}
	return false, queryStatus(&a)
}
