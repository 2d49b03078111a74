# GET /items   (list_items)
package shop.GET.items

import data.roles

default allowed := false

allowed if roles.may("read")
