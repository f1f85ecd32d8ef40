<!-- another_schema.pml:2:1: a prompt for schema 'journey'; expected 'trip' -->
<prompt schema="journey">Go on.</prompt>
