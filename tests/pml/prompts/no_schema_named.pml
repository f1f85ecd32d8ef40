<!-- no_schema_named.pml:2:1: <prompt> has no schema; expected <prompt schema="…"> -->
<prompt>Go on.</prompt>
