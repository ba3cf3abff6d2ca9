package main

import (
	"context"
	"net/url"

	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/session"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

func govmomiClient(ctx context.Context, client *soap.Client, u *url.URL) (*govmomi.Client, error) {
	vim, err := vim25.NewClient(ctx, client)
	if err != nil {
		return nil, err
	}
	c := &govmomi.Client{Client: vim, SessionManager: session.NewManager(vim)}
	return c, c.Login(ctx, u.User)
}

func queryConfigTarget(ctx context.Context, c *vim25.Client, req *types.QueryConfigTarget) (*types.QueryConfigTargetResponse, error) {
	return methods.QueryConfigTarget(ctx, c, req)
}

func (r *rig) currentTime() error {
	_, err := methods.GetCurrentTime(r.ctx, r.client.Client)
	return err
}

func objectFolder(r *rig) *object.Folder {
	return object.NewFolder(r.client.Client, r.lab.vmFolder)
}
