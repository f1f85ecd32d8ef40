<!-- not_a_schema.pml:2:1: <prompt>; expected <schema> -->
<prompt schema="s">text</prompt>
