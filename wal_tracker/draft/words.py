"""What the words in names of tables and columns usually mean. In lower case; nothing here is certain."""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


USERS = _words("user users _users app_user app_users auth_user auth_users")
PEOPLE = USERS | _words("account accounts customer customers member members person people profile profiles")
MEMBERSHIPS = _words("membership memberships member members team_members group_members")
INVITATIONS = _words("invitation invitations invite invites")

BOOKKEEPING = _words(
    """
    schema_migrations ar_internal_metadata alembic_version django_migrations flyway_schema_history databasechangelog
    databasechangeloglock knex_migrations knex_migrations_lock _prisma_migrations goose_db_version schema_version
    gorp_migrations phinxlog migrations django_session django_content_type django_admin_log spatial_ref_sys
    __drizzle_migrations
    """
)
"""Tables of migration tools and frameworks."""

ACTORS = ("customer_id", "account_id", "member_id", "owner_id", "author_id", "creator_id", "created_by")
"""Columns that say who did it, where no foreign key leads to people; the likeliest first."""

DISTINCT = _words("distinct_id user_id userid _user_id")
"""Properties from which an event's distinct_id is read without being told (rules.md)."""

TELLING = _words(
    """
    status state stage phase type kind plan role tier currency country locale language timezone title slug code sku
    source channel method provider category reason priority level event action
    """
)
"""Texts that are short and tell something, by the last word of their name."""

STATES = _words("status state stage phase")
LEVELS = _words("plan tier role")

HAPPENED = _words("sent paid read won lost sold begun done met left")
"""Past participles that do not end in "ed"."""

NO_EVENT = _words(
    """
    created inserted added updated modified changed edited synced refreshed scheduled expected estimated cached indexed
    processed last
    """
)
"""Moments that every row has, that lie ahead, or that nobody waits for."""

DELETED = _words("deleted removed discarded trashed")

SECRETS = _words(
    """
    password passwd pwd passphrase passcode secret secrets token tokens hash hashed digest salt pepper ssn nino iban cvv
    cvc pan pin otp totp mfa credential credentials cookie nonce signature encrypted cipher ciphertext apikey privkey
    passport jwt bearer webauthn
    """
)
SECRET_PAIRS = frozenset(
    {
        ("access", "key"),
        ("account", "number"),
        ("api", "key"),
        ("backup", "codes"),
        ("bank", "account"),
        ("card", "number"),
        ("credit", "card"),
        ("encryption", "key"),
        ("national", "id"),
        ("private", "key"),
        ("recovery", "code"),
        ("recovery", "codes"),
        ("routing", "number"),
        ("signing", "key"),
        ("social", "security"),
        ("tax", "id"),
    }
)

CEL_RESERVED = _words(
    """
    as break const continue else false for function if import in let loop namespace null package return true var void
    while
    """
)
