/* base/list. */
#include "base/list.h"
#include "check.h"

typedef struct {
    int value;
    taut_list link;
} item;

static int sum(taut_list *head) {
    int n = 0;
    for (taut_list *l = head->next; l != head; l = l->next) {
        CHECK(l->next->prev == l && l->prev->next == l);
        n = n * 10 + TAUT_CONTAINER(l, item, link)->value;
    }
    return n;
}

static void order(void) {
    taut_list head;
    item items[4];
    taut_list_init(&head);
    CHECK(taut_list_empty(&head));
    for (int i = 0; i < 4; i++) {
        items[i].value = i + 1;
        taut_list_append(&head, &items[i].link);
    }
    CHECK_EQ(sum(&head), 1234);
    taut_list_unlink(&items[1].link);
    CHECK_EQ(sum(&head), 134);
    taut_list_unlink(&items[1].link); /* harmless */
    CHECK_EQ(sum(&head), 134);
    taut_list_unlink(&items[0].link);
    taut_list_unlink(&items[3].link);
    taut_list_append(&head, &items[0].link);
    CHECK_EQ(sum(&head), 31);
}

static void take(void) {
    taut_list from, to;
    item items[3] = {{.value = 1}, {.value = 2}, {.value = 3}};
    taut_list_init(&from);
    taut_list_take(&to, &from);
    CHECK(taut_list_empty(&to) && taut_list_empty(&from));
    taut_list_append(&from, &items[0].link);
    taut_list_take(&to, &from);
    CHECK(taut_list_empty(&from));
    CHECK_EQ(sum(&to), 1);
    taut_list_append(&from, &items[1].link);
    taut_list_append(&to, &items[2].link);
    CHECK_EQ(sum(&to), 13);
    CHECK_EQ(sum(&from), 2);
    taut_list_unlink(&items[0].link);
    taut_list_unlink(&items[2].link);
    CHECK(taut_list_empty(&to));
}

static const check_test tests[] = {CHECK_TEST(order), CHECK_TEST(take)};
CHECK_MAIN(tests)
