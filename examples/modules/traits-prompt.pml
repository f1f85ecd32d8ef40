<prompt schema="traits" max_tokens="48">
  <student/>
  <crime/>
  <brief/>

  Which book do you recommend?
</prompt>
